"""The split: disjoint, stratified, seeded, and no group on two sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubel.dataset.config import DataConfig
from hubel.dataset.split import Split, assign, split
from hubel.errors import DataError, UsageError


def divide(
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    parts: np.ndarray | None = None,
    seed: int = 0,
    **kw: object,
) -> Split:
    groups = np.arange(len(labels)) if groups is None else groups
    names = [f"c{i}" for i in range(int(labels.max()) + 1)]
    usable, paths = np.ones(len(labels), dtype=bool), [f"{i}.png" for i in range(len(labels))]
    return split(labels, groups, parts, usable, names, DataConfig(**kw), seed=seed, paths=paths)


def test_shares_hold_in_every_class() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 40])
    result = divide(labels, val=0.1, test=0.15)
    for label, n in enumerate([1000, 100, 40]):
        counts = [np.sum(labels[part] == label) for part in (result.train, result.val, result.test)]
        assert sum(counts) == n
        np.testing.assert_allclose(counts, [0.75 * n, 0.1 * n, 0.15 * n], atol=1.01)


def test_the_same_seed_gives_the_same_split_and_another_gives_another() -> None:
    labels = np.repeat([0, 1], 50)
    np.testing.assert_array_equal(divide(labels, seed=3).test, divide(labels, seed=3).test)
    assert not np.array_equal(divide(labels, seed=3).test, divide(labels, seed=4).test)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 9))
def test_groups_stay_together_and_parts_are_disjoint(seed: int, classes: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, 20 * classes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(sizes)) % classes, sizes)
    result = divide(labels, groups=groups, seed=seed)
    parts = [result.train, result.val, result.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    owners = [set(groups[part].tolist()) for part in parts]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]
    assert abs(len(result.test) / len(labels) - 0.15) < 0.12


def test_folds_cover_everything_once() -> None:
    labels = np.repeat([0, 1], [33, 17])
    tests = [divide(labels, folds=5, fold=k).test for k in range(5)]
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(50))
    assert {len(t) for t in tests} <= {9, 10, 11}


def test_given_parts_are_kept_and_validation_comes_from_train() -> None:
    labels = np.tile([0, 1], 100)
    parts = np.array(["train"] * 150 + ["test"] * 50)
    result = divide(labels, parts=parts)
    assert np.array_equal(result.test, np.arange(150, 200))
    assert len(result.val) in (14, 15, 16)
    assert result.reported == "test"


def test_val_without_test_is_reported_and_another_val_is_split_off() -> None:
    labels = np.tile([0, 1], 100)
    parts = np.array(["train"] * 150 + ["val"] * 50)
    result = divide(labels, parts=parts)
    assert result.reported == "val"
    assert np.array_equal(result.test, np.arange(150, 200))
    assert result.val.max() < 150


def test_all_three_parts_given_are_used_as_they_are() -> None:
    parts = np.array(["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    result = divide(np.tile([0, 1], 50), parts=parts)
    assert (len(result.train), len(result.val), len(result.test)) == (60, 20, 20)


def test_a_class_of_two_images_trains_but_is_not_measured() -> None:
    result = divide(np.array([0] * 30 + [1] * 30 + [2]))
    assert 60 in result.train
    assert result.unmeasured == ("c2",)


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0, 0, 0, 0]), np.array([0, 0, 1])])
def test_too_few_images_are_one_sentence(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="too few images"):
        divide(labels)


@pytest.mark.parametrize(
    "wrong", [{"val": 0.0}, {"test": 1.0}, {"val": 0.6, "test": 0.5}, {"folds": 1}, {"folds": 3, "fold": 3}]
)
def test_impossible_shares_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        divide(np.repeat([0, 1], 20), **wrong)


def test_a_part_gets_something_of_every_class_before_another_gets_more() -> None:
    parts = assign(np.zeros(3, dtype=np.int64), np.arange(3), (0.9, 0.05, 0.05), np.random.default_rng(0))
    assert sorted(parts.tolist()) == [0, 1, 2]


def test_three_groups_a_class_are_one_for_each_part() -> None:
    labels, groups = np.repeat([0, 1, 2], 30), np.repeat(np.arange(9), 10)
    result = divide(labels, groups=groups)
    for part in (result.train, result.val, result.test):
        assert np.bincount(labels[part]).tolist() == [10, 10, 10]
    uneven = assign(
        np.zeros(100, np.int64), np.repeat(np.arange(4), [50, 40, 5, 5]), (0.85, 0.15), np.random.default_rng(0)
    )
    assert np.bincount(uneven).tolist() == [90, 10]


def test_too_few_groups_are_said() -> None:
    with pytest.raises(DataError, match="in 2 groups that stay together"):
        divide(np.repeat([0, 1], 20), groups=np.repeat([0, 1], 20))


def test_the_splits_own_seed_goes_before_the_runs() -> None:
    labels = np.repeat([0, 1], 50)
    one, other = divide(labels, seed=3, split_seed=7), divide(labels, seed=4, split_seed=7)
    np.testing.assert_array_equal(one.test, other.test)
    np.testing.assert_array_equal(one.train, divide(labels, seed=7).train)
    assert one.seed == 7


def test_splits_are_those_of_earlier_versions() -> None:
    """Written down at 0.1.0: the same seed gives the same images."""
    result = divide(np.repeat([0, 1, 2], [20, 12, 9]), seed=5)
    assert result.test.tolist() == [5, 8, 14, 20, 28, 36]
    assert result.val.tolist() == [10, 16, 23, 35]


def stored(result: Split, folder: Path, rename: str = "{}.png") -> Path:
    paths = [rename.format(i) for i in range(1000)]
    (folder / "split.json").write_text(json.dumps(result.manifest(paths, {})), "utf-8")
    return folder


def test_a_given_split_divides_by_name(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 50)
    first = divide(labels, seed=3)
    for place in (stored(first, tmp_path), tmp_path / "split.json"):
        again = divide(labels, seed=9, split=str(place))
        for part in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(again, part), getattr(first, part))
        assert (again.reported, again.said) == (first.reported, "")


def test_new_images_are_divided_by_the_rule_and_counted(tmp_path: Path) -> None:
    labels, more = np.repeat([0, 1], 50), np.concatenate([np.repeat([0, 1], 50), np.repeat([0, 1], 100)])
    first = divide(labels, seed=3)
    given = str(stored(first, tmp_path))
    now = divide(more, seed=9, split=given)
    assert now.said == f"200 images are not in {given} and were divided by the rule."
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(now, part)[getattr(now, part) < 100], getattr(first, part))
    assert (np.sum(now.test >= 100), np.sum(now.val >= 100)) == (30, 20)
    groups = np.arange(300)
    groups[100:103] = first.test[:3]  # copies of images that were held out
    assert {100, 101, 102} <= set(divide(more, groups=groups, seed=9, split=given).test.tolist())


def test_images_of_a_given_split_that_are_gone_are_counted(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 50)
    given = str(stored(divide(labels), tmp_path))
    fewer = divide(labels[:80], split=given)
    assert fewer.said == f"20 images of {given} are not here."
    assert len(fewer.train) + len(fewer.val) + len(fewer.test) == 80


def test_what_is_no_split_is_one_sentence(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 50)
    for text in ("[]", "{", '{"reported": "test"}', '{"reported": "test", "train": 3, "val": [], "test": []}'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match=r"it is no split\.json"):
            divide(labels, split=str(tmp_path))
    with pytest.raises(DataError, match="No such file"):
        divide(labels, split=str(tmp_path / "x"))
    stored(divide(labels), tmp_path, "other/{}.png")
    with pytest.raises(DataError, match=r"names none of these images .*0\.png"):
        divide(labels, split=str(tmp_path))
