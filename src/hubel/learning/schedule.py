"""The course of the learning rate and of the image size: functions of progress, which runs from 0 to 1."""

from __future__ import annotations

import math

from hubel.learning.config import Schedule

FLOOR = 0.01  # share of the peak rate that warm-up starts from
GROWING = 0.6  # share of the training in which images grow, where they start small


def factor(schedule: Schedule, progress: float, warmup: float) -> float:
    """Return the learning rate as a share of its peak, in [0, 1].

    ``one-cycle`` rises and then falls in straight lines (Smith and Topin 2017, without the momentum cycle), ``cosine``
    falls as half a cosine (Loshchilov and Hutter 2017), ``step`` divides by ten at one and two thirds, ``sweep`` rises
    exponentially over seven decades and is meant for the learning-rate finder.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "sweep":
        return float(10.0 ** (7 * (progress - 1)))
    if progress < warmup:
        return FLOOR + (1 - FLOOR) * progress / warmup
    fallen = (progress - warmup) / (1 - warmup)
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * fallen)) / 2
        case "step":
            return 0.1 ** min(int(fallen * 3), 2)
        case "constant":
            return 1.0
        case _:
            return 1 - fallen


def image_size(full: int, small_first: float, progress: float) -> int:
    """Return the side of the training images: it grows from ``small_first * full``
    and is complete at 60 % of the training.

    Sides are multiples of 8 (Howard 2018 and others: early epochs need no fine details, and cost a fraction).
    """
    if small_first >= 1:
        return full
    share = small_first + (1 - small_first) * min(progress / GROWING, 1.0)
    return full if share >= 1 else min(full, max(8, round(share * full / 8) * 8))


def mean_area(small_first: float) -> float:
    """Return the mean area of the training images over a whole training, as a share of the final area."""
    grown = (1 - small_first**3) / (3 * (1 - small_first)) if small_first < 1 else 1.0
    return GROWING * grown + 1 - GROWING
