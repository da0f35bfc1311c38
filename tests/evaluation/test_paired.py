"""Paired comparisons against scipy, a literal bootstrap, and simulated power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubel.evaluation.metrics import wilson_interval
from hubel.evaluation.paired import Comparison, compared


def of(a: list[bool], b: list[bool]) -> Comparison:
    paths = [f"{i}.png" for i in range(len(a))]
    return compared(("A", "B"), np.array(a), np.array(b), paths, ["xy"[i % 2] for i in range(len(a))])


def counts(both: int, lost: int, won: int, neither: int) -> Comparison:
    a = [True] * (both + lost) + [False] * (won + neither)
    return of(a, [True] * both + [False] * lost + [True] * won + [False] * neither)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30))
def test_p_is_the_sum_of_binomial_tails(lost: int, won: int) -> None:
    """McNemar's exact test written out: twice the smaller tail of Binomial(lost + won, 1/2), at most one."""
    differ = lost + won
    tail = sum(math.comb(differ, k) for k in range(min(lost, won) + 1)) / 2**differ
    assert counts(5, lost, won, 5).p == pytest.approx(min(1.0, 2 * tail))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_every_figure_is_a_count(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found, other = of(a, b), of(b, a)
    assert found.accuracies == (pytest.approx(np.mean(a)), pytest.approx(np.mean(b)))
    assert found.intervals[0] == wilson_interval(sum(a), len(a))
    assert found.only[0] == tuple(f"{i}.png" for i, (x, y) in enumerate(pairs) if x and not y)
    assert found.only[1] == other.only[0]
    assert found.difference == pytest.approx(-other.difference)
    assert found.p == pytest.approx(other.p)
    assert sum(n for n, _, _ in found.classes.values()) == found.n == len(pairs)
    assert sum(lost for _, lost, _ in found.classes.values()) == len(found.only[0])
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_the_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.86
    found = of(a.tolist(), b.tolist())
    gaps = b.astype(int) - a
    literal = [gaps[rng.integers(300, size=300)].mean() for _ in range(4_000)]
    assert found.interval == pytest.approx(tuple(np.quantile(literal, (0.025, 0.975))), abs=0.005)


def test_needed_images_give_the_power_that_they_promise() -> None:
    found = counts(300, 30, 45, 125)
    assert found.needed is not None
    rng = np.random.default_rng(1)
    shares, shown = np.array([300, 30, 45, 125]) / 500, 0
    for lost, won in rng.multinomial(found.needed, shares, 300)[:, 1:3]:
        shown += counts(0, int(lost), int(won), 0).p < 0.05
    assert 0.7 < shown / 300 < 0.9


def test_verdicts() -> None:
    assert counts(300, 10, 40, 150).verdict.startswith("B is better by 6.0 points (3.")
    assert counts(300, 40, 10, 150).verdict.startswith("A is better by 6.0 points (3.")
    close = counts(300, 10, 14, 176).verdict
    assert close.startswith("No difference is shown: B is ahead by 0.8 points (-1")
    assert f"one so small would need about {counts(300, 10, 14, 176).needed:,} images" in close
    assert counts(9, 0, 0, 1).verdict == "No difference is shown: each alone is right on 0 of 10 images."
    assert (counts(9, 0, 0, 1).p, counts(9, 0, 0, 1).needed) == (1.0, None)
