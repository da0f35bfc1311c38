"""Images whose label is probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubel.records import Finding

LIMIT = 30  # suspects that are named; the strongest come first


@dataclass(frozen=True)
class Suspect:
    """Row `index` is labelled `label` but looks like `guess`; margin is how much likelier, in probability."""

    index: int
    label: int
    guess: int
    margin: float


def label_suspects(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> tuple[Suspect, ...]:
    """Find suspects among images that the model was not trained on, the strongest first.

    A class's threshold is the mean probability that images of that label get for it. An image is a suspect when its
    likeliest class passes that class's threshold and is not its label.

    Args:
        probabilities: (N, K) rows that sum to 1. labels: (N,) int64.
    """
    count = probabilities.shape[1]
    own, likeliest, guess = probabilities[np.arange(len(labels)), labels], probabilities.max(1), probabilities.argmax(1)
    sums = np.bincount(labels, weights=own, minlength=count)
    thresholds = np.divide(sums, np.bincount(labels, minlength=count), out=np.ones(count), where=sums > 0)
    rows = np.flatnonzero((guess != labels) & (likeliest >= thresholds[guess]))
    rows = rows[np.argsort(own[rows] - likeliest[rows], kind="stable")]
    columns = (rows, labels[rows], guess[rows], likeliest[rows] - own[rows])
    return tuple(Suspect(*values) for values in zip(*(column.tolist() for column in columns), strict=True))


def suspect_findings(
    suspects: Sequence[Suspect], paths: Sequence[str], classes: Sequence[str], n: int
) -> tuple[Finding, ...]:
    """Make one finding that names the strongest suspects among n images; none where there are no suspects."""
    if not suspects:
        return ()
    first, named = suspects[0], tuple(paths[s.index] for s in suspects[:LIMIT])
    message = (
        f"{len(suspects)} of {n:,} validation and reported images may carry a wrong label, or are hard "
        f"(the model is sure of another class); the strongest, {named[0]}, is labelled {classes[first.label]!r} "
        f"and looks like {classes[first.guess]!r}: look at them and correct what is wrong."
    )
    evidence = {"share": len(suspects) / n, "margin": first.margin}
    return (Finding(code="label-suspect", severity="note", message=message, paths=named, evidence=evidence),)
