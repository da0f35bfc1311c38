"""Calibration against the definitions written out by hand, and promises against repeated draws."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from hubel.errors import UsageError
from hubel.evaluation.calibration import (
    calibration,
    confidences,
    fit_temperature,
    levels,
    promised,
    threshold,
    with_ece,
)
from hubel.evaluation.intervals import largest_share
from hubel.evaluation.metrics import score
from hubel.records import Level

Array = npt.NDArray[Any]


def made_logits(n: int, classes: int, *, sharp: float, seed: int, signal: float = 2.0) -> tuple[Array, Array]:
    """Logits of a model that is perfectly calibrated, times `sharp`: labels are drawn from its own probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, signal, (n, classes))
    chances = torch.from_numpy(logits).softmax(1).numpy()
    labels = (chances.cumsum(1) > rng.random((n, 1))).argmax(1)
    return (sharp * logits).astype(np.float32), labels.astype(np.int64)


def ece_by_hand(confidence: Array, right: Array) -> float:
    """Guo et al. 2017, equation 3, one bin (lower, upper] after the other."""
    total = 0.0
    for lower, upper in pairwise(k / 15 for k in range(16)):
        inside = [i for i, c in enumerate(confidence) if lower < c <= upper]
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60))
def test_ece_is_the_papers(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    found = calibration(confidence, right)
    assert found.ece == pytest.approx(ece_by_hand(confidence, right), abs=1e-12)
    assert 0 <= found.interval[0] <= found.ece <= found.interval[1]
    assert sum(n for n, _, _ in found.bins) == len(pairs)
    assert sum(n * a for n, _, a in found.bins) == pytest.approx(right.sum())
    shuffled = np.random.default_rng(1).permutation(len(pairs))
    assert calibration(confidence[shuffled], right[shuffled]).ece == pytest.approx(found.ece, abs=1e-12)


def test_hand_worked_example() -> None:
    confidence, right = np.array([0.9, 0.92, 0.6, 0.62]), np.array([True, False, True, True])
    # (0.866, 0.933]: |0.5 - 0.91| of half the images; 0.6 ends (0.533, 0.6], 0.62 lies in (0.6, 0.666]
    expected = 0.5 * 0.41 + 0.25 * 0.4 + 0.25 * 0.38
    assert calibration(confidence, right).ece == pytest.approx(expected)


def test_confidences_are_torchs_softmax_and_nan_is_none() -> None:
    logits, labels = made_logits(50, 4, sharp=1, seed=0)
    confidence, right = confidences(logits, labels, 1.7)
    expected = (torch.from_numpy(logits) / 1.7).softmax(1).max(1)
    assert confidence == pytest.approx(expected.values.numpy(), abs=1e-6)
    assert (right == (expected.indices.numpy() == labels)).all()
    logits[3] = math.nan
    confidence, right = confidences(logits, labels)
    assert confidence[3] == 0
    assert not right[3]


def test_the_interval_covers_where_percentiles_of_the_bootstrap_do_not() -> None:
    """True errors of 0 and 10 points: the interval holds each in most of 40 samples of 400 images."""
    held = {0.0: 0, 0.1: 0}
    for off in held:
        for seed in range(40):
            rng = np.random.default_rng(seed)
            confidence = 0.55 + 0.45 * rng.random(400)
            right = rng.random(400) < confidence - off
            low, high = calibration(confidence, right, seed=seed).interval
            held[off] += low <= off <= high
    assert held[0.0] >= 36
    assert held[0.1] >= 34


def test_a_calibrated_model_is_what_chance_says() -> None:
    found = [calibration(*confidences(*made_logits(500, 5, sharp=1, seed=seed))) for seed in range(20)]
    assert np.mean([each.ece for each in found]) == pytest.approx(np.mean([each.chance for each in found]), rel=0.15)


@pytest.mark.parametrize("sharp", [0.5, 1.0, 2.0, 3.0])
def test_the_temperature_is_found_that_was_planted(sharp: float) -> None:
    logits, labels = made_logits(4_000, 6, sharp=sharp, seed=1)
    value, why = fit_temperature(logits, labels)
    assert value == pytest.approx(sharp, rel=0.08) or (sharp == 1 and value == 1)
    assert "4,000 validation images" in why


def test_the_temperature_has_the_least_loss_by_torch() -> None:
    logits, labels = made_logits(800, 4, sharp=2.2, seed=2)
    values, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(values / temperature, truth))

    value, _ = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(math.log(0.1), math.log(10), 2_001))
    assert loss(value) <= min(map(loss, grid)) + 1e-9
    assert value == pytest.approx(grid[int(np.argmin([loss(t) for t in grid]))], rel=0.003)


def test_no_temperature_without_errors_enough_or_without_a_gain() -> None:
    logits, labels = made_logits(60, 3, sharp=1, seed=3, signal=6.0)
    labels = logits.argmax(1)
    value, why = fit_temperature(logits, labels)
    assert value == 1
    assert "0 of 60 validation images are answered wrong" in why
    assert fit_temperature(logits, (labels + 1) % 3)[0] == 1  # all of them wrong
    kept = [fit_temperature(*made_logits(100, 4, sharp=1, seed=seed))[0] for seed in range(30)]
    assert np.mean([value == 1 for value in kept]) > 0.4  # of a calibrated model, most gains are chance


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 200), st.integers(2, 6), st.floats(0.3, 4))
def test_a_temperature_changes_no_answer(seed: int, n: int, classes: int, sharp: float) -> None:
    logits, labels = made_logits(n, classes, sharp=sharp, seed=seed)
    value, _ = fit_temperature(logits, labels)
    assert 0.1 <= value <= 10
    assert ((logits / value).argmax(1) == logits.argmax(1)).all()
    scaled = score(logits / value, labels, list(map(str, range(classes))))
    plain = score(logits, labels, list(map(str, range(classes))))
    assert scaled.confusion == plain.confusion
    assert value == 1 or scaled.loss < plain.loss


def test_an_infinite_or_missing_logit_is_left_out_of_the_fit() -> None:
    logits, labels = made_logits(600, 3, sharp=2, seed=5)
    broken = np.concatenate([logits, np.full((2, 3), np.nan, np.float32), np.full((2, 3), -np.inf, np.float32)])
    value, _ = fit_temperature(broken, np.concatenate([labels, [0, 1, 2, 0]]))
    assert value == pytest.approx(2, rel=0.15)


def test_scores_carry_the_error() -> None:
    logits, labels = made_logits(200, 3, sharp=3, seed=6)
    scores = with_ece(score(logits, labels, ("a", "b", "c")), logits, labels)
    assert scores.ece == pytest.approx(ece_by_hand(*confidences(logits, labels)), abs=1e-6)
    assert scores.ece_interval is not None
    assert scores.ece_interval[0] <= scores.ece <= scores.ece_interval[1]


@pytest.mark.parametrize(("seen", "n", "risk"), [(0, 59, 0.05), (0, 1, 0.5), (7, 100, 0.0025), (99, 100, 0.01)])
def test_the_exact_bound_is_a_quantile_of_the_beta_distribution(seen: int, n: int, risk: float) -> None:
    assert largest_share(seen, n, risk) == pytest.approx(beta.ppf(1 - risk, seen + 1, n - seen), abs=1e-12)
    assert largest_share(n, n, risk) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300), st.floats(0.01, 0.6))
def test_levels_count_and_the_threshold_keeps_its_bound(pairs: list[tuple[float, bool]], share: float) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs], dtype=bool)
    known = levels(confidence, right)
    assert len(known) == 20 * (len(pairs) >= 20)
    for level in known:
        assert level.n == sum(c >= level.confidence for c, _ in pairs)
        assert level.errors == sum(c >= level.confidence and not r for c, r in pairs)
    assert not known or known[-1].confidence == 0
    least = threshold(known, share)
    bounds = [
        beta.ppf(0.95, level.errors + 1, level.n - level.errors) if level.errors < level.n else 1.0 for level in known
    ]
    if least is not None:
        assert all(bound <= share for bound, level in zip(bounds, known, strict=True) if level.confidence == least)
        first = next(i for i, level in enumerate(known) if level.confidence == least)
        assert first == 19 or bounds[first + 1] > share


@pytest.mark.parametrize(("share", "n"), [(0.05, 400), (0.1, 150), (0.03, 1_000)])
def test_promises_are_kept_in_nineteen_of_twenty_draws(share: float, n: int) -> None:
    """Thresholds from validation draws, their true error share from a population of 200,000."""
    logits, labels = made_logits(200_000, 5, sharp=1.6, seed=7, signal=6.0)
    sure, right = confidences(logits, labels)
    rng, broken, promised_at_all = np.random.default_rng(8), 0, 0
    for _ in range(200):
        some = rng.integers(len(right), size=n)
        least = threshold(levels(sure[some], right[some]), share)
        if least is not None:
            promised_at_all += 1
            broken += (~right[sure >= least]).mean() > share
    assert promised_at_all > 100
    assert broken <= 10  # 5 % of 200


def test_what_cannot_be_promised_is_one_sentence() -> None:
    known = (Level(confidence=0.9, n=60, errors=0), Level(confidence=0.0, n=100, errors=30))
    assert promised(known, 0.05) == 0.9  # 1 - 0.05 ** (1 / 60) is 0.0487
    with pytest.raises(UsageError, match=r"by 100 validation images.*the least that can be promised is 0.049"):
        promised(known, 0.01)
    assert promised(known, 0.049) == 0.9
    assert promised(known, 0.4) == 0
    with pytest.raises(UsageError, match="saved without counts"):
        promised((), 0.05)
    for share in (0.0, 1.0, -0.1, 5.0, math.nan):
        with pytest.raises(UsageError, match="share of errors that you accept"):
            promised(known, share)
