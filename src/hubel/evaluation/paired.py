"""Two classifiers on the same images: is one better, by how much, and how many images would show it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.evaluation.intervals import Z95, wilson_interval

RESAMPLES = 10_000
Z80 = 0.8416212335729143  # the normal quantile of 0.8

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two models, A and B, answer on the same images.

    Attributes:
        names, accuracies, intervals: of each. n: images. only: paths of the images that only A, and only B, gets right.
        classes: class → its images, and how many of them only A, and only B, gets right.
        difference: accuracy of B less that of A; interval: 95 %, by the bootstrap over images.
        p: of McNemar's exact test, two-sided. verdict: one sentence.
        needed: images that would show such a difference in 8 of 10 samples (Connor 1987); None where there is none.
    """

    names: tuple[str, str]
    n: int
    accuracies: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    interval: tuple[float, float]
    p: float
    needed: int | None
    verdict: str
    classes: dict[str, tuple[int, int, int]]
    only: tuple[tuple[str, ...], tuple[str, ...]]


def compared(names: tuple[str, str], a: Array, b: Array, paths: Sequence[str], labels: Sequence[str]) -> Comparison:
    """Compare right answers (N,) bool of A and of B to the images at `paths` of the classes `labels`."""
    from scipy.stats import binomtest

    n, only = len(a), (a & ~b, b & ~a)
    (lost, won), of = (int(each.sum()) for each in only), np.array(labels)
    share, gap = (lost + won) / n, (won - lost) / n
    # To draw images with replacement is to draw how many of each kind there are
    drawn = np.random.default_rng(0).multinomial(n, [lost / n, won / n, max(1 - share, 0)], RESAMPLES)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, (0.025, 0.975)).tolist()
    p = float(binomtest(won, lost + won).pvalue) if share else 1.0
    needed = math.ceil(((Z95 * math.sqrt(share) + Z80 * math.sqrt(share - gap**2)) / gap) ** 2) if gap else None
    better, sign = (names[1], 100) if gap > 0 else (names[0], -100)
    ends = sorted((sign * low, sign * high))
    figures = f"by {sign * gap:.1f} points ({ends[0]:.1f} to {ends[1]:.1f}), p = {p:.2g}, n = {n:,}"
    verdict = f"No difference is shown: each alone is right on {won:,} of {n:,} images."
    if p < 0.05:
        verdict = f"{better} is better {figures}."
    elif needed:
        verdict = (
            f"No difference is shown: {better} is ahead {figures}; one so small would need about {needed:,} images."
        )
    members = {name: of == name for name in dict.fromkeys(labels)}
    return Comparison(
        names=names,
        n=n,
        accuracies=(float(a.mean()), float(b.mean())),
        intervals=(wilson_interval(int(a.sum()), n), wilson_interval(int(b.sum()), n)),
        difference=gap,
        interval=(low, high),
        p=p,
        needed=needed,
        verdict=verdict,
        classes={c: (int(m.sum()), int((m & only[0]).sum()), int((m & only[1]).sum())) for c, m in members.items()},
        only=(tuple(np.array(paths)[only[0]].tolist()), tuple(np.array(paths)[only[1]].tolist())),
    )
