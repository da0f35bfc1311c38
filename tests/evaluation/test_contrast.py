"""What trainings with several seeds show of a difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hubel.evaluation.contrast import Difference, effect


def test_over_seeds_alone_it_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.01, 5)
    found = effect(values)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.seeds, found.images) == (5, 0)


def test_over_images_alone_it_is_the_normal_interval() -> None:
    right = np.repeat([1.0, 0.0], [900, 100])
    found = effect([0.9, 0.9, 0.9], right)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.3 / 1000**0.5, rel=1e-3)
    assert found.verdict == "supported"


def test_one_seed_decides_nothing() -> None:
    assert effect([0.5], np.ones(1000)).verdict == "undecided"
    assert effect([0.5, 0.5], np.ones(1000)).verdict == "supported"
    assert effect([-0.5, -0.5]).verdict == "refuted"
    assert effect([0.0, 0.0]).verdict == "undecided"


def test_a_line_other_than_zero() -> None:
    small = effect([-0.010, -0.011, -0.009])
    assert small.verdict == "refuted"
    assert Difference(words="", factors={}, least=-0.02).judged(small).verdict == "supported"
    assert Difference(words="", factors={}).judged(None).verdict == "undecided"


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_variant_against_itself_is_undecided_in_19_of_20(seeds: int, spread: float) -> None:
    """Images differ in difficulty, and trainings by more than their images."""
    random, decided, trials = np.random.default_rng(seeds), 0, 400
    for _ in range(trials):
        difficulty = random.beta(4, 1, 1000)

        def right(difficulty: np.ndarray = difficulty) -> np.ndarray:
            shifted = np.clip(difficulty + random.normal(0, spread, (seeds, 1)), 0, 1)
            return (random.random((seeds, 1000)) < shifted).astype(float)

        difference = right() - right()
        decided += effect(difference.mean(1), difference.mean(0)).verdict != "undecided"
    assert decided <= trials / 20
