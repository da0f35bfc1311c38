"""Images of more than 8 bits: which of their values become black and white, for one image or for a whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hubel.errors import ImageError

Range = tuple[float, float]

OUTLYING = 0.1  # percent of an image's pixels at either end that the range of a set does without
NARROW = 1 / 8  # of a depth's values: a set that takes less of them is stretched from its least to its largest value
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag, and the value that Pillow heeds for 8 bits only


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Between which values the pixels of one image lie, but for a few outlying ones, and whether they are floats."""

    low: float
    high: float
    floating: bool


def is_deep(mode: str) -> bool:
    """Whether an image of this mode has more than 8 bits a pixel."""
    return mode.startswith("I") or mode == "F"


def depth_of(image: Image.Image) -> Depth:
    """Measure a loaded image of more than 8 bits.

    Raises:
        ImageError: no value is finite.
    """
    values = _finite(np.asarray(image))
    low, high = np.percentile(values, (OUTLYING, 100 - OUTLYING), method="nearest").tolist()
    return Depth(low=low, high=high, floating=values.dtype.kind == "f")


def common_range(depths: Sequence[Depth]) -> Range | None:
    """The values that become black and white in all images; None where there are none, or integers among floats.

    They are those of the smallest depth (1, 255, 1023, 4095, …) that holds all, unless the images take so few of its
    values that little would be left to see.
    """
    if len({depth.floating for depth in depths}) != 1:
        return None
    low, high = min(depth.low for depth in depths), max(depth.high for depth in depths)
    tops = (*((1.0,) if depths[0].floating else ()), *(2.0**bits - 1 for bits in range(8, 17)))
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is not None and high - low >= NARROW * top:
        return 0.0, top
    return low, max(high, float(np.nextafter(low, np.inf)))


def to_bytes(image: Image.Image, kind: str, given: Range | None) -> npt.NDArray[np.uint8]:
    """Scale (H, W) integers or floats of more than 8 bits to 0..255, by the range given or as `decode` says."""
    values = np.asarray(image)
    if kind == "PPM":  # Pillow has scaled it by the largest value, which the file itself says
        given = (0.0, 65535.0)
    elif given is None:
        given = (0.0, 65535.0) if image.mode.startswith("I;16") or kind == "PNG" else _own_range(values)
    low, high = given
    pixels = np.empty(values.shape, np.uint8)
    rows = max(1, (1 << 20) // values.shape[1])
    for start in range(0, values.shape[0], rows):
        block = (values[start : start + rows].astype(np.float64) - low) * (255 / (high - low))
        pixels[start : start + rows] = np.rint(np.nan_to_num(block, nan=0).clip(0, 255))
    tags: Any = getattr(image, "tag_v2", {})
    return 255 - pixels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else pixels


def _own_range(values: npt.NDArray[Any]) -> Range:
    """The values of one image alone that become 0 and 255."""
    values = _finite(values)
    low, high = float(values.min()), float(values.max())
    for top in (1.0, 255.0) if values.dtype.kind == "f" else (255.0, 65535.0):
        if low >= 0 and high <= top:
            return 0.0, top
    return low, max(high, float(np.nextafter(low, np.inf)))


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("no pixel has a finite value (all are NaN or infinite)")
    return values if finite.all() else values[finite]
