"""Recipes: flags, files and Python say the same thing, and wrong values are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubel.cli import parser
from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe, as_flags, read_recipe, settings, to_yaml, with_settings


def test_names_are_unique_and_explained() -> None:
    known = list(settings())
    assert len({s.name for s in known}) == len(known)
    assert all(len(s.help) > 3 for s in known)


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    recipe = with_settings(
        Recipe(), {"minutes": 2, "lr": 0.1, "background": (1, 2, 3), "flip": False, "model": "lenet5"}
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert read_recipe(tmp_path) == recipe


def test_flags_make_the_same_recipe_again() -> None:
    changes = {"minutes": 2.0, "epochs": 3, "strict": True, "flip": False, "background": (1, 2, 3), "optimizer": "adam"}
    recipe = with_settings(Recipe(), changes)
    given = vars(parser().parse_args(["train", "x", *as_flags(recipe)]))
    again = with_settings(Recipe(), {k: v for k, v in given.items() if k not in ("verb", "source")})
    assert again == recipe


def test_a_recipe_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe("speed").model.model == "speed"
    with pytest.raises(UsageError, match="no recipe sped: give a YAML file, a run's folder, or speed"):
        read_recipe("sped")
    (tmp_path / "speed").write_text("model:\n  model: lenet5\n")  # a file of that name is what was meant
    assert read_recipe("speed").model.model == "lenet5"


def test_scientific_notation_in_yaml_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train:\n  lr: 1e-3\n")
    assert read_recipe(tmp_path / "r.yaml").train.lr == 1e-3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epoch: 3}", "unknown key 'epoch'"),
        ("train: {epochs: many}", "expected int, got 'many'"),
        ("train: {lr: -1.0}", "--lr -1.0: expected a number above zero"),
        ("model: [", "can't be used"),
        ("minutes: 0", "--minutes 0.0: expected a number above zero"),
        ("seed: -1", "--seed -1: expected"),
    ],
)
def test_wrong_recipes_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_recipe(tmp_path / "r.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no setting 'epoch'; known are minutes"):
        with_settings(Recipe(), {"epoch": 3})


def test_minutes_are_the_default_budget_and_epochs_lift_it() -> None:
    assert Recipe().budget == 300
    assert with_settings(Recipe(), {"epochs": 3}).budget is None
    assert with_settings(Recipe(), {"epochs": 3, "minutes": 1}).budget == 60
