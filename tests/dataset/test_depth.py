"""The range of images with more than 8 bits is that of their set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hubel.dataset.depth import Depth, common_range, depth_of


def between(*pairs: tuple[float, float], floating: bool = False) -> list[Depth]:
    return [Depth(low=low, high=high, floating=floating) for low, high in pairs]


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        (between((0, 4000), (90, 3000)), (0, 4095)),  # 12 bits
        (between((300, 60000)), (0, 65535)),
        (between((0, 9)), (0, 9)),  # too few to be seen among 255
        (between((30000, 31000), (30200, 31500)), (30000, 31500)),
        (between((-1000, 400), (-900, 3000)), (-1000, 3000)),  # computed tomography
        (between((0, 100_000)), (0, 100_000)),
        (between((0.1, 0.9), (0, 0.5), floating=True), (0, 1)),
        (between((0, 200), floating=True), (0, 255)),
        (between((0, 4000)) + between((0, 1), floating=True), None),
        ([], None),
    ],
)
def test_the_smallest_depth_that_holds_all(depths: list[Depth], expected: tuple[float, float] | None) -> None:
    assert common_range(depths) == expected


def test_a_set_of_one_value_has_a_range() -> None:
    low, high = common_range(between((70_000, 70_000))) or (0, 0)
    assert low == 70_000 < high


def test_outlying_pixels_are_passed_over() -> None:
    values = np.full((100, 100), 1000, np.uint16)
    values[0, :5] = 65535
    values[5] = 2000
    assert depth_of(Image.fromarray(values)) == Depth(low=1000, high=2000, floating=False)
