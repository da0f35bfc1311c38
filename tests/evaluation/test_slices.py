"""Kinds of images: planted ones are found, chance and confounding classes are not, and p-values equal scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, fisher_exact

from hubel.evaluation.slices import _slice, slice_findings, slices
from hubel.evidence import OF_IMAGES

Array = npt.NDArray[Any]


def facts(n: int, seed: int = 0, **given: Any) -> Array:
    rng = np.random.default_rng(seed)
    made = np.zeros(n, OF_IMAGES)
    made["width"], made["height"] = rng.integers(100, 400, (2, n))
    made["brightness"], made["format"] = rng.random(n), np.where(rng.random(n) < 0.3, b"PNG", b"JPEG")
    for name, values in given.items():
        made[name] = values
    return made


def test_dark_photos_that_do_worse_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    known, labels = facts(800), rng.integers(0, 4, 800)
    dark = known["brightness"] <= np.quantile(known["brightness"], 0.2)
    right = rng.random(800) < np.where(dark, 0.7, 0.93)
    found = slices(known, labels, right)
    [worse] = [each for each in found if each.worse]
    assert worse.name.startswith("the darkest fifth (at most 49 of 255")
    assert worse.n == 160
    assert worse.accuracy == pytest.approx(right[dark].mean())
    assert worse.rest == pytest.approx(right[~dark].mean())
    [finding] = slice_findings(known, labels, right, [f"{i}.jpg" for i in range(800)])
    assert finding.paths == tuple(f"{i}.jpg" for i in np.flatnonzero(dark & ~right))
    assert f"{right[dark].mean():.0%} of 160 are answered right, against {right[~dark].mean():.0%}" in finding.message


def test_a_hard_class_of_dark_images_is_no_finding() -> None:
    """All of one class are dark and it is hard: dark images do worse, but no worse than others of their classes."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, 1000)
    known = facts(1000, brightness=np.where(labels == 0, 0.1, 0.4 + 0.5 * rng.random(1000)))
    right = rng.random(1000) < np.where(labels == 0, 0.6, 0.97)
    dark = next(each for each in slices(known, labels, right) if each.name.startswith("the darkest"))
    assert dark.accuracy < 0.7
    assert dark.rest > 0.9
    assert not dark.worse
    assert dark.expected == pytest.approx(dark.accuracy, abs=0.01)


def test_false_findings_are_as_rare_as_promised() -> None:
    rng, false = np.random.default_rng(3), 0
    for seed in range(120):
        found = slices(facts(300, seed), rng.integers(0, 3, 300), rng.random(300) < 0.85)
        false += any(each.worse for each in found)
    assert false <= 12  # 5 % of 120 is 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=60))
def test_with_one_class_it_is_fishers_exact_test(pairs: list[tuple[bool, bool]]) -> None:
    members, right = np.array([m for m, _ in pairs]), np.array([r for _, r in pairs])
    if members.all() or not members.any():
        return
    table = [[(members & ~right).sum(), (members & right).sum()], [(~members & ~right).sum(), (~members & right).sum()]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert _slice("x", members, np.zeros(len(pairs), np.int64), right).p == pytest.approx(expected, abs=1e-9)


def test_several_classes_equal_permutations_within_classes() -> None:
    rng = np.random.default_rng(4)
    labels, members = rng.integers(0, 3, 200), rng.random(200) < 0.3
    right = rng.random(200) < 0.8 - 0.1 * members
    exact, seen, hits = _slice("x", members, labels, right).p, int((members & ~right).sum()), 0
    for _ in range(4_000):
        shuffled = members.copy()
        for label in range(3):
            of = labels == label
            shuffled[of] = rng.permutation(members[of])
        hits += (shuffled & ~right).sum() >= seen
    assert exact == pytest.approx(hits / 4_000, abs=0.03)


def test_p_values_are_adjusted_at_least_as_much_as_the_false_discovery_rate_asks() -> None:
    rng = np.random.default_rng(5)
    known, labels, right = facts(400, 5), rng.integers(0, 2, 400), rng.random(400) < 0.8
    found = slices(known, labels, right)
    plain = [_slice(each.name, each.members, labels, right).p for each in found]
    assert all(each.p >= p for each, p in zip(found, false_discovery_control(plain), strict=True))
    assert min(each.p for each in found) == pytest.approx(min(1, len(plain) * min(plain)))


def test_what_does_not_vary_or_is_not_known_makes_no_kind() -> None:
    n = 200
    same = facts(n, width=28, height=28, brightness=0.5, format=b"PNG")
    labels, right = np.zeros(n, np.int64), np.arange(n) % 3 > 0
    assert slices(same, labels, right) == ()
    assert slices(None, labels, right) == ()
