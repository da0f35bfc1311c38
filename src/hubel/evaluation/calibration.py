"""Whether a confidence means what it says: its calibration error, a temperature that repairs it, and what it promises.

A promise is about the share of errors among the answers that are given with some confidence or more: its exact upper
bound by validation images has to keep it (Geifman and El-Yaniv 2017). Twenty confidences, which divide these images
evenly, are tried from the surest on until one fails: tests in an order that is fixed beforehand share no risk between
them (Angelopoulos et al. 2021, "Learn then test"), and small validation parts can promise more than by their method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.errors import UsageError
from hubel.evaluation.intervals import largest_share
from hubel.evidence import softmax
from hubel.records import Level, Scores

BINS = 15  # as Guo et al. 2017
RESAMPLES, WORK, AT_ONCE = 1_000, 20_000_000, 400_000  # of the bootstrap, images in all of them, and of some at a time
LEAST_ERRORS = 10  # wrong answers that a temperature is fitted on: the usual ten events for a parameter
RANGE, FOLDS, NUMBERS = (0.1, 10.0), 5, 20_000_000  # of a temperature, of its trial, and logits that it is fitted on
RISK, LEVELS = 0.05, 20

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidences lie from the share of right answers.

    Attributes:
        ece: the distance of mean confidence and accuracy in 15 bins of equal width, averaged over the images (expected
            calibration error, Guo et al. 2017). interval: 95 %, by the basic bootstrap: a sum of distances is too
            large in any sample, and more so in samples of it; from 0 where chance explains it.
        chance: what a perfectly calibrated model has on as many images, on average.
        bins: images, mean confidence and accuracy of each bin that isn't empty: the reliability diagram.
    """

    ece: float
    interval: tuple[float, float]
    chance: float
    bins: tuple[tuple[int, float, float], ...]


def confidences(logits: Floats, labels: Integers, temperature: float = 1.0) -> tuple[Floats, Bools]:
    """(N, K) logits → (N,) confidences of the likeliest classes, and whether these are right; NaN is 0 and wrong."""
    likely = np.nan_to_num(softmax(logits, temperature), nan=0.0)
    return likely.max(1), (likely.argmax(1) == labels) & (likely.max(1) > 0)


def calibration(confidence: Floats, right: Bools, *, seed: int = 0) -> Calibration:
    """Compare confidences (N,) with right answers (N,)."""
    n, sure, rng = len(right), np.asarray(confidence, dtype=np.float64), np.random.default_rng(seed)
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)  # a bin holds its upper end

    def errors(of: Integers, gaps: Floats) -> list[float]:  # both (R, N)
        cells = (of + BINS * np.arange(len(of))[:, None]).ravel()
        sums = np.bincount(cells, gaps.ravel(), BINS * len(of)).reshape(-1, BINS)
        return [float(each) / n for each in np.abs(sums).sum(1)]

    [ece] = errors(bins[None], (right - sure)[None])
    times, again, calibrated = min(RESAMPLES, max(100, WORK // n)), list[float](), list[float]()
    each = min(times, max(1, AT_ONCE // n))
    for _ in range(0, times, each):
        some = rng.integers(n, size=(each, n))
        again += errors(bins[some], (right - sure)[some])
        calibrated += errors(np.broadcast_to(bins, (each, n)), (rng.random((each, n)) < sure) - sure)
    least, most = np.quantile(again, (0.025, 0.975)).tolist()
    low = 0.0 if ece <= np.quantile(calibrated, 0.95) else max(0.0, 2 * ece - most)
    sums = np.stack([np.bincount(bins, of, BINS) for of in (np.ones(n), sure, right)], 1)
    return Calibration(
        ece=ece,
        interval=(low, max(ece, 2 * ece - least)),
        chance=float(np.mean(calibrated)),
        bins=tuple((int(count), s / count, r / count) for count, s, r in sums.tolist() if count),
    )


def with_ece(scores: Scores, logits: Floats, labels: Integers) -> Scores:
    """Add the calibration error to the scores of logits (N, K)."""
    found = calibration(*confidences(logits, labels))
    return replace(scores, ece=found.ece, ece_interval=found.interval)


def fit_temperature(logits: Floats, labels: Integers) -> tuple[float, str]:
    """Return what to divide logits by, and why (one sentence): that with the least cross-entropy (Guo et al. 2017).

    It is 1 unless that pays on images which it was not fitted on (in five folds), and unless there are right and wrong
    answers enough: while all are right, no confidence is too high.

    Args:
        logits, labels: (V, K) and (V,) of validation images.
    """
    order = np.random.default_rng(0).permutation(len(labels))[: max(NUMBERS // logits.shape[1], 1)]
    order = order[np.isfinite(logits[order]).all(1)]
    values, truth, n = logits[order].astype(np.float64), labels[order], len(order)
    wrong = int((values.argmax(1) != truth).sum())
    if min(wrong, n - wrong) < LEAST_ERRORS:
        return (
            1.0,
            f"{wrong:,} of {n:,} validation images are answered wrong, which is too few (or too many) to fit one.",
        )
    fold = np.arange(n) % FOLDS
    best = [best_temperature(values[fold != k], truth[fold != k]) for k in range(FOLDS)]
    held = np.concatenate([losses(values[fold == k], truth[fold == k], best[k]) for k in range(FOLDS)])
    gain = float(losses(values, truth, 1.0).mean() - held.mean())
    if gain <= 0:
        return 1.0, f"of {n:,} validation images, those that it was not fitted on were answered no better with one."
    why = f"fitted on {n:,} validation images, and lowers the loss of those left out of the fit by {gain:.2g} nats."
    return best_temperature(values, truth), why


def best_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature with the least loss."""
    from scipy.optimize import minimize_scalar  # one minimum: the loss is convex in the temperature's inverse

    found = minimize_scalar(
        lambda x: losses(logits, labels, math.exp(x)).mean(), bounds=np.log(RANGE).tolist(), method="bounded"
    )
    return math.exp(found.x)


def losses(logits: Floats, labels: Integers, temperature: float) -> Floats:
    """(N,) cross-entropy of each image in nats."""
    scaled = (logits - logits.max(1, keepdims=True)) / temperature
    found: Floats = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]
    return found


def levels(confidence: Floats, right: Bools) -> tuple[Level, ...]:
    """Count answers and errors at confidences that divide the images (N,) evenly, the surest first; the last is 0."""
    n, falling = len(right), np.sort(confidence)[::-1].tolist()
    least = [*(falling[math.ceil(n * k / LEVELS) - 1] for k in range(1, LEVELS)), 0.0] if n >= LEVELS else []
    taken = [(c, confidence >= c) for c in least]
    return tuple(Level(confidence=c, n=int(of.sum()), errors=int((of & ~right).sum())) for c, of in taken)


def threshold(known: Sequence[Level], share: float) -> float | None:
    """The least confidence that keeps errors at a share of the answers with 95 % certainty; None where none does."""

    def kept(level: Level, errors: int) -> bool:
        return largest_share(errors, level.n, RISK) <= share

    first = [next((i for i, level in enumerate(known) if kept(level, errors)), len(known)) for errors in (0, 1)]
    # The first one tried may have an error, if half of the images are enough for that: one odd label ends the road else
    tried = known[first[first[1] < len(known) / 2] :]
    return min((level.confidence for level in takewhile(lambda level: kept(level, level.errors), tried)), default=None)


def promised(known: Sequence[Level], share: float) -> float:
    """Return what `threshold` does, or raise UsageError: no confidence keeps the promise, or it is none."""
    if not 0 < share < 1:
        raise UsageError(f"--unsure {share:g}: expected the share of errors that you accept, such as 0.05 for 5 %.")
    if not known:
        raise UsageError(
            f"--unsure {share:g}: this model was saved without counts of its errors on {LEVELS} validation images or "
            "more: train it again, or leave --unsure out."
        )
    found = threshold(known, share)
    if found is None:
        least = next((k for k in range(1, 1000) if threshold(known, k / 1000) is not None), 1000)
        raise UsageError(
            f"--unsure {share:g}: by {known[-1].n:,} validation images, no confidence keeps errors that few with 95 % "
            f"certainty; the least that can be promised is {least / 1000:g}."
        )
    return found
