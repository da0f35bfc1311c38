"""Images whose label is probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubel.evaluation.calibration import Floats, Integers, best_temperature, losses
from hubel.evidence import softmax
from hubel.records import Finding

LIMIT = 30  # suspects that are named; the strongest come first
# Shares of what a label usually gets: at most so much for the label itself, at least so much for another. Chosen on
# three sets with 20 % of their labels exchanged; whole thresholds, as in the paper, find two thirds to three quarters.
OWN, OTHER = 0.25, 0.5
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # times the mean square of the features
STEEP = 10.0  # scores of least squares lie between 0 and 1: as logits they are too flat


@dataclass(frozen=True)
class Suspect:
    """Row `index` is labelled `label` but looks like `guess`; margin is how much likelier, in probability."""

    index: int
    label: int
    guess: int
    margin: float


def label_suspects(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> tuple[Suspect, ...]:
    """Find suspects among images that the model was not trained on, the strongest first.

    What a label usually gets is the mean probability for it among the images that carry it. An image is a suspect when
    its own label gets less than a quarter of that, and the likeliest class at least half of what is usual for it.

    Args:
        probabilities: (N, K) rows that sum to 1. labels: (N,) int64.
    """
    count = probabilities.shape[1]
    own, likeliest, guess = probabilities[np.arange(len(labels)), labels], probabilities.max(1), probabilities.argmax(1)
    sums = np.bincount(labels, weights=own, minlength=count)
    usual = np.divide(sums, np.bincount(labels, minlength=count), out=np.full(count, np.inf), where=sums > 0)
    rows = np.flatnonzero((guess != labels) & (own < OWN * usual[labels]) & (likeliest >= OTHER * usual[guess]))
    rows = rows[np.argsort(own[rows] - likeliest[rows], kind="stable")]
    columns = (rows, labels[rows], guess[rows], likeliest[rows] - own[rows])
    return tuple(Suspect(*values) for values in zip(*(column.tolist() for column in columns), strict=True))


def held_out(features: Floats, labels: Integers, fold: Integers, classes: int) -> Floats:
    """(N, K) probabilities for each image by least squares on the labels of all folds but its own.

    Ridge regression, since it is solved at once; penalty and temperature are those that answer best.

    Args:
        features: (N, D) of a network that was trained on other images. labels, fold: (N,) whole numbers.
    """
    x = features - features.mean(0)
    x = np.concatenate([x / np.sqrt(np.square(x).sum(1).mean()), np.ones((len(x), 1))], 1, dtype=np.float32)
    targets = np.eye(classes, dtype=np.float32)[labels] - np.float32(1 / classes)
    square, product, scores = x.T @ x, x.T @ targets, np.empty((len(RIDGES), *targets.shape), np.float32)
    for of in (fold == k for k in np.unique(fold)):
        values, vectors = np.linalg.eigh((square - x[of].T @ x[of]).astype(np.float64))
        seen, wanted = x[of] @ vectors, vectors.T @ (product - x[of].T @ targets[of])
        for score, ridge in zip(scores, RIDGES, strict=True):
            score[of] = STEEP * seen @ (wanted / (values + ridge * values.mean())[:, None])
    tried = [(score, best_temperature(score, labels)) for score in scores]
    return softmax(*min(tried, key=lambda each: float(losses(each[0], labels, each[1]).mean())))


def suspect_findings(
    suspects: Sequence[Suspect], paths: Sequence[str], classes: Sequence[str], of: str, *, exclude: bool = False
) -> tuple[Finding, ...]:
    """Make one finding that names suspects among the images `of`; none where there are no suspects.

    Args:
        exclude: whether it names them all, and ``--exclude`` leaves them out.
    """
    if not suspects:
        return ()
    first, named = suspects[0], tuple(paths[s.index] for s in (suspects if exclude else suspects[:LIMIT]))
    message = (
        f"{len(suspects):,} of {of} may carry a wrong label, or are hard (a model is sure of another class); the "
        f"strongest, {named[0]}, is labelled {classes[first.label]!r} and looks like {classes[first.guess]!r}: look at "
        f"them and correct what is wrong{', or leave them out with --exclude' if exclude else ''}."
    )
    return (
        Finding(
            code="label-suspect",
            severity="note",
            message=message,
            paths=named,
            exclude=named if exclude else (),
            evidence={
                "suspects": len(suspects),
                "looks_like": {p: classes[s.guess] for p, s in zip(named, suspects, strict=False)},
            },
        ),
    )
