"""--augment takes presets and single changes, and says what it would have taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hubel.cli import parser
from hubel.dataset.config import CHANGES, PRESETS, Augmentation, DataConfig, parse_augmentation
from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe, as_flags, read_recipe, to_yaml


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("flip", [True, False])
def test_a_preset_mirrors_where_that_is_safe(name: str, flip: bool) -> None:
    assert parse_augmentation(name, flip) == replace(PRESETS[name], flip=flip and name != "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rotate=15,flip", Augmentation(rotate=15.0, flip=True)),
        ("crop=4, flip", Augmentation(crop=4, flip=True)),
        ("zoom=0.3", Augmentation(scale=(0.3, 1.0), ratio=4 / 3)),
        ("jitter=0.4,saturation=0.1", Augmentation(brightness=0.4, contrast=0.4, saturation=0.1)),
        ("cutout=0.5,erase=0.25", Augmentation(cutout=0.5, erase=0.25)),
        ("mixup=0.2,cutmix=1", Augmentation(mixup=0.2, cutmix=1.0)),
        ("small,mixup=0.2,flip", Augmentation(shift=1 / 16, mixup=0.2, flip=True)),
        ("rand,crop=4,shift=0", Augmentation(policy="rand", crop=4)),
        ("none,rotate=5", Augmentation(rotate=5.0)),
    ],
)
def test_single_changes(text: str, expected: Augmentation) -> None:
    assert parse_augmentation(text) == expected
    assert parse_augmentation(text, flip=True).flip == (expected.flip or text.startswith(("small", "rand")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotat=15", "there is no 'rotat=15'; expected auto, a preset .none, small, "),
        ("rotate", "rotate wants a number; .*rotate=DEGREES"),
        ("rotate=a", "rotate wants a number"),
        ("rotate=500", "500 is not from 0 to 180"),
        ("erase=nan", "nan is not from 0 to 1"),
        ("flip=1", "there is no 'flip=1'"),
        ("rotate=15,photo", "there is no 'photo'; .*also after a preset"),
        ("", "there is no ''"),
        ("auto,flip", "there is no 'auto'"),
    ],
)
def test_what_is_no_augmentation_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        DataConfig(augment=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_something(change: str) -> None:
    _, least, most, _ = CHANGES[change]
    assert parse_augmentation(f"{change}={most}") != Augmentation()
    assert parse_augmentation(f"{change}={most},{change}={least}") == parse_augmentation(f"{change}={least}")


def test_the_text_stands_in_the_recipe_and_comes_back(tmp_path: Path) -> None:
    given = parser().parse_args(["train", "digits", "--augment", "rotate=15,flip", "--split-seed", "7"])
    assert (given.augment, given.split_seed) == ("rotate=15,flip", 7)
    recipe = Recipe(data=DataConfig(augment="rotate=15,flip", split_seed=7, split="runs/x"))
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), "utf-8")
    assert "augment: rotate=15,flip" in to_yaml(recipe)
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert as_flags(recipe) == ["--split-seed", "7", "--split", "runs/x", "--augment", "rotate=15,flip"]


@pytest.mark.parametrize(("augment", "flip"), [("rotate=15", True), ("rotate=15,flip", False), ("small,flip", False)])
def test_flips_are_not_said_twice(augment: str, flip: bool) -> None:
    with pytest.raises(UsageError, match="says itself what is mirrored"):
        DataConfig(augment=augment, flip=flip)
    assert DataConfig(augment=augment, flip=not flip).augment == augment


@pytest.mark.parametrize("wrong", [{"split_seed": -1}, {"split_seed": 2**31}, {"split": "runs/x", "folds": 5}])
def test_splits_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="split"):
        DataConfig(**wrong)
