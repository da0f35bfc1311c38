"""The pixels that the positions of a map depend on, along one axis of the image: plain arithmetic without tensors.

Each position has a first and a last pixel, which lie outside of the image where a window reaches over its edge. Keeping
them for every position, and not just one size, one step and one start (Araujo et al. 2019, "Computing Receptive Fields
of Convolutional Neural Networks"), makes upsampling, uneven pooling and shifted branches exact too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CUBIC_TAPS = range(-1, 3)  # the four samples of bicubic interpolation, counted from the one to the left


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """What the positions along one axis of a map see along one axis of the image.

    Attributes:
        axis: 0 for the image's height, 1 for its width.
        first, last: (n,) pixels, both included; ``+inf, -inf`` for a position that sees nothing.
        jump: pixels from one position to the next; the pattern of first and last repeats after `period` positions.
    """

    axis: int
    first: Floats
    last: Floats
    jump: Fraction = Fraction(1)
    period: int = 1

    def __len__(self) -> int:
        return len(self.first)

    @property
    def size(self) -> int:
        """Pixels that a position sees, of the position that sees most."""
        return max(0, math.floor(float(np.max(self.last - self.first, initial=-1.0)) + 1))

    @property
    def padding(self) -> float:
        """How many pixels the first position starts before the image."""
        seen = np.flatnonzero(np.isfinite(self.first))
        if not len(seen):
            return 0.0
        start = float(self.first[seen[0]]) - float(self.jump) * float(seen[0])
        return -start if start else 0.0

    def at(self, positions: Ints) -> tuple[Floats, Floats]:
        """First and last pixel of any positions, those outside of the map as if the map went on."""
        n, period = len(self), self.period
        if n < period:  # too short to show its pattern: go on at the mean step
            inside = np.clip(positions, 0, n - 1)
            beyond = np.multiply(positions - inside, float(self.jump), dtype=np.float64)
        else:
            turns = np.where(positions < 0, positions // period, 0)
            turns = np.where(positions >= n, (positions - n) // period + 1, turns)
            inside = positions - turns * period
            beyond = np.multiply(turns, float(self.jump * period), dtype=np.float64)
        return self.first[inside] + beyond, self.last[inside] + beyond


def whole_axis(axis: int, pixels: int) -> Reach:
    """Return what the pixels of the image see: themselves."""
    own = np.arange(pixels, dtype=np.float64)
    return Reach(axis=axis, first=own, last=own)


def gathered(reach: Reach, positions: Ints, *, jump: Fraction, period: int, valid: Ints | None = None) -> Reach:
    """Return positions that each see a row of the old ones. positions: (outputs, taps); valid: which taps count."""
    first, last = reach.at(positions)
    if valid is not None:
        first, last = np.where(valid, first, np.inf), np.where(valid, last, -np.inf)
    first, last = first.min(axis=1, initial=np.inf), last.max(axis=1, initial=-np.inf)
    return Reach(axis=reach.axis, first=first, last=last, jump=jump, period=period)


def sliding(reach: Reach, outputs: int, *, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Reach:
    """A window of `kernel` taps slides over the map: convolution, pooling, slices (kernel 1) and padding."""
    starts = np.arange(outputs, dtype=np.int64)[:, None] * stride - padding
    positions = starts + np.arange(kernel, dtype=np.int64)[None, :] * dilation
    period = reach.period // math.gcd(reach.period, stride)
    return gathered(reach, positions, jump=reach.jump * stride, period=period)


def transposed(reach: Reach, outputs: int, *, kernel: int, stride: int, padding: int, dilation: int = 1) -> Reach:
    """Transposed convolution: output o sees the inputs i for which o = i·stride - padding + k·dilation has a k."""
    ahead = (
        np.arange(outputs, dtype=np.int64)[:, None] + padding - np.arange(kernel, dtype=np.int64)[None, :] * dilation
    )
    valid = (ahead % stride == 0).astype(np.int64)
    return gathered(reach, ahead // stride, jump=reach.jump / stride, period=reach.period * stride, valid=valid)


def adaptive(reach: Reach, outputs: int) -> Reach:
    """Adaptive pooling: output o sees the inputs from floor(o·n/outputs) to before ceil((o+1)·n/outputs)."""
    n = len(reach)
    o = np.arange(outputs, dtype=np.int64)[:, None]
    start, stop = o * n // outputs, -((o + 1) * -n // outputs)
    taps = start + np.arange(int((stop - start).max()), dtype=np.int64)[None, :]
    jump, period = _rate(reach, outputs)
    return gathered(reach, np.minimum(taps, stop - 1), jump=jump, period=period)


def resized(reach: Reach, outputs: int, *, how: str, align_corners: bool = False) -> Reach:
    """Interpolation to another number of positions. how: ``nearest``, ``linear`` or ``cubic``."""
    n = len(reach)
    o = np.arange(outputs, dtype=np.float64)[:, None]
    if how == "nearest":
        taps = np.floor(o * n / outputs).astype(np.int64)
    else:
        source = o * (n - 1) / max(outputs - 1, 1) if align_corners else (o + 0.5) * n / outputs - 0.5
        left = np.floor(source).astype(np.int64)
        between = (source > left).astype(np.int64)  # on a sample, its neighbour has no weight
        spread = np.array(CUBIC_TAPS if how == "cubic" else range(2), dtype=np.int64)[None, :]
        taps = left + spread * between
    jump, period = _rate(reach, outputs)
    return gathered(reach, np.clip(taps, 0, n - 1), jump=jump, period=period)


def _rate(reach: Reach, outputs: int) -> tuple[Fraction, int]:
    """Step and period when the map is brought to so many outputs."""
    ratio = Fraction(len(reach), outputs)
    return reach.jump * ratio, ratio.denominator * reach.period // math.gcd(ratio.numerator, reach.period)


def repeated(reach: Reach, times: int) -> Reach:
    """Each position stands `times` times beside itself."""
    first, last = np.repeat(reach.first, times), np.repeat(reach.last, times)
    return Reach(axis=reach.axis, first=first, last=last, jump=reach.jump / times, period=reach.period * times)


def picked(reach: Reach, positions: Ints) -> Reach:
    """Return the positions in another order (flipped, rolled)."""
    step = -1 if len(positions) > 1 and positions[0] > positions[-1] and np.all(np.diff(positions) == -1) else 1
    return Reach(
        axis=reach.axis,
        first=reach.first[positions],
        last=reach.last[positions],
        jump=reach.jump * step,
        period=reach.period,
    )


def union(a: Reach, b: Reach) -> Reach:
    """Each position sees what it sees in either map; both have as many positions."""
    return Reach(
        axis=a.axis,
        first=np.minimum(a.first, b.first),
        last=np.maximum(a.last, b.last),
        jump=max(a.jump, b.jump),
        period=math.lcm(a.period, b.period),
    )


def joined(reaches: Sequence[Reach]) -> Reach:
    """Maps stand one behind the other along this axis."""
    return Reach(
        axis=reaches[0].axis,
        first=np.concatenate([r.first for r in reaches]),
        last=np.concatenate([r.last for r in reaches]),
        jump=reaches[0].jump,
        period=reaches[0].period,
    )
