"""Settings of the network: arguments of its own are read, written and refused."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from hubel.errors import UsageError
from hubel.flags import add_settings
from hubel.jobs.recipe import Recipe, as_flags, with_settings
from hubel.nn.config import ModelConfig, argument_text, parse_argument


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("norm=group", "group"),
        ("se=true", True),
        ("kernel=5", 5),
        ("dropout=0.5", 0.5),
        ("widths=[16, 32]", [16, 32]),
        ("activation=null", None),
        ("note=a=b", "a=b"),
        ('note="5"', "5"),
        ("note=", ""),
    ],
)
def test_values_are_json_or_text_and_are_written_as_they_are_read(text: str, value: Any) -> None:
    name = text.partition("=")[0]
    assert parse_argument(text) == (name, value)
    assert parse_argument(argument_text(name, value)) == (name, value)


@pytest.mark.parametrize("text", ["norm", "=3", "a b=3", "--norm=group"])
def test_what_is_no_name_and_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE"):
        parse_argument(text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arguments": {"classes": 3}}, "--arg classes=….*leave it out"),
        ({"arguments": {"width": 3}, "width": 4}, "say the same"),
        ({"arguments": ["norm"]}, "expected a mapping"),
    ],
)
def test_arguments_that_hubel_sets_itself_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ModelConfig(**settings)


def test_the_command_line_and_the_recipe_say_the_same() -> None:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    add_settings(parser, {"model"})
    given = vars(parser.parse_args(["--arg", "norm=group", "--arg", "widths=[8, 16]", "--dropout", "0.1"]))
    recipe = with_settings(Recipe(), given)
    assert recipe.model.given == {"norm": "group", "widths": [8, 16], "dropout": 0.1}
    assert vars(parser.parse_args(as_flags(recipe))) == given
    assert as_flags(Recipe()) == []
