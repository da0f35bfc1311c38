"""Schedules: hand-worked values, and shape."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from hubel.learning.config import Schedule
from hubel.learning.schedule import FLOOR, GROWING, factor, image_size, mean_area


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_factors_stay_in_range(schedule: Schedule) -> None:
    values = [factor(schedule, i / 1000, 0.1) for i in range(-10, 1020)]
    assert 0 <= min(values) <= max(values) <= 1


@pytest.mark.parametrize(
    ("schedule", "progress", "warmup", "expected"),
    [
        ("one-cycle", 0.0, 0.2, FLOOR),
        ("one-cycle", 0.2, 0.2, 1.0),
        ("one-cycle", 0.6, 0.2, 0.5),
        ("one-cycle", 1.0, 0.2, 0.0),
        ("linear", 0.25, 0.0, 0.75),
        ("cosine", 0.5, 0.0, 0.5),
        ("cosine", 1 / 3, 0.0, (1 + math.cos(math.pi / 3)) / 2),
        ("step", 0.3, 0.0, 1.0),
        ("step", 0.5, 0.0, 0.1),
        ("step", 0.9, 0.0, 0.01),
        ("constant", 0.9, 0.0, 1.0),
        ("sweep", 0.0, 0.0, 1e-7),
        ("sweep", 1.0, 0.0, 1.0),
    ],
)
def test_hand_worked_values(schedule: Schedule, progress: float, warmup: float, expected: float) -> None:
    assert factor(schedule, progress, warmup) == pytest.approx(expected)


def test_images_grow_in_steps_of_eight_and_end_whole() -> None:
    sizes = [image_size(100, 0.5, i / 100) for i in range(101)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 48
    assert set(sizes[int(100 * GROWING) + 1 :]) == {100}
    assert {s % 8 for s in sizes if s < 100} == {0}
    assert image_size(32, 1.0, 0.0) == 32


def test_the_mean_area_is_the_integral() -> None:
    steps = 100_000
    areas = [min(0.5 + 0.5 * (i / steps) / GROWING, 1.0) ** 2 for i in range(steps)]
    assert mean_area(0.5) == pytest.approx(sum(areas) / steps, abs=1e-4)
    assert mean_area(1.0) == 1.0
