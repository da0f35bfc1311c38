"""The receptive field of every number of a tensor, for max-plus arithmetic.

Each number of a map depends on the pixels from a top to a bottom row and from a left to a right column. Four tensors
hold (-top, bottom, -left, right) of every number, so that whatever a sum or a product joins is joined by a maximum.
Along an axis of the tensor where all numbers see the same (its channels) the four keep one place, which makes them
small. Pixels may lie outside of the image, where windows reach over its edge: every map is thought to go on there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Taps = tuple[Tensor, float]  # which positions each new one sees (outputs, taps), and how much longer its step is
NOTHING = -(2**40)  # among the taps: one that doesn't count


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """What the numbers of a tensor see of the image.

    Attributes:
        kind: ``local``: each position sees a patch; ``whole``: the whole image, as behind attention, and where an
            operation is not known; ``pooled``: the positions are gone, as behind global pooling.
        bounds: of a local field, (-top, bottom, -left, right) in pixels, each shaped like the tensor, or 1 along axes
            on which it does not change; infinitely small where nothing is seen, or pooled along that axis.
        steps: pixels from one position to the next along height and width; negative in a mirrored map.
        sees_all: whether the whole image matters to every position too, through a side branch or a norm's statistics.
        flattened: how many positions were put behind one another in a flat list of numbers; 0: it is none.
    """

    kind: Literal["local", "whole", "pooled"]
    bounds: tuple[Tensor, ...] = ()
    steps: tuple[float, float] = (1.0, 1.0)
    sees_all: bool = False
    flattened: int = 0

    @property
    def places(self) -> tuple[set[int], set[int]]:
        """Axes of the tensor, counted from the end, along which the image's height and its width lie."""
        along = [{d for d in range(-bound.ndim, 0) if bound.shape[d] > 1} for bound in self.bounds]
        return (along[0] | along[1], along[2] | along[3]) if along else (set(), set())

    @property
    def is_patch(self) -> bool:
        """Whether its positions see a patch, which is known along both axes of the image."""
        return self.kind == "local" and all(bool(bound.isfinite().any()) for bound in self.bounds)

    @property
    def is_map(self) -> bool:
        """Whether height and width are axes of the tensor of their own."""
        height, width = self.places
        apart = self.is_patch and not height & width
        return apart and (self.bounds[0].ndim > 3 or bool(height and width))

    def fits(self, tensor: Tensor) -> bool:
        """Whether it can be this tensor's field."""
        shapes = [zip(bound.shape, tensor.shape, strict=False) for bound in self.bounds if bound.ndim == tensor.ndim]
        return len(shapes) == len(self.bounds) and all(kept in (1, size) for shape in shapes for kept, size in shape)

    @property
    def size(self) -> tuple[int, int]:
        """Pixels (height, width) that a position of a local field sees, of the position that sees most."""
        top, bottom, left, right = self.bounds
        height, width = (float((first + last).max()) for first, last in ((top, bottom), (left, right)))
        return math.floor(max(height, -1.0) + 1), math.floor(max(width, -1.0) + 1)

    @property
    def padding(self) -> tuple[float, float]:
        """Pixels that the first position of a local field starts before the image."""
        top, left = (float(self.bounds[edge].flatten()[0]) for edge in (0, 2))
        return (top + 0.0 if math.isfinite(top) else 0.0), (left + 0.0 if math.isfinite(left) else 0.0)

    def shown_step(self, axis: int) -> float:
        """Return the step along height (0) or width (1) that the bounds show, or else the one that is known."""
        own = self.places[axis] - self.places[1 - axis]
        shown = _pattern(self.bounds[2 * axis + 1], min(own)) if own else None
        return shown[1] if shown else self.steps[axis]

    def with_bounds(self, bounds: Iterable[Tensor]) -> Field:
        """Return the field after numbers were left out or summed: pooled along an axis that lost all its positions."""
        left = replace(self, bounds=tuple(bounds))
        lost = [bool(before and not after) for before, after in zip(self.places, left.places, strict=True)]
        if not any(lost) or not set.union(*left.places):
            return POOLED if any(lost) else left
        four = (torch.full_like(b, -math.inf) if lost[edge // 2] else b for edge, b in enumerate(left.bounds))
        return replace(left, bounds=tuple(four), sees_all=True)

    def summed(self, dim: int) -> Field:
        """Return the field where all numbers along one axis of the tensor matter to each that comes out."""
        return self.with_bounds(bound.amax(dim, keepdim=True) for bound in self.bounds)

    def gathered(self, tensor: Tensor, taps: dict[int, Taps]) -> Field:
        """Return the field of positions that each see some of this tensor's, and may reach over its edge.

        taps: by the axis of the tensor, counted from the end.
        """
        if set.intersection(*self.places) & taps.keys():  # rows behind one another
            return WHOLE
        bounds, steps = list(self.bounds), list(self.steps)
        for axis, places in enumerate(self.places):
            alone = {axis - 2} if tensor.shape[axis - 2 :][:1] == (1,) else set()  # a map of one position
            for dim in (places or alone) & taps.keys() if bounds else ():
                index, rate = taps[dim]
                for edge, sign in ((2 * axis, -1), (2 * axis + 1, 1)):
                    bounds[edge], step = _taken(bounds[edge], dim, index, sign * steps[axis])
                steps[axis] = step * rate
        return replace(self, bounds=tuple(bounds), steps=(steps[0], steps[1]))


WHOLE, POOLED = Field(kind="whole"), Field(kind="pooled")


def of_image(image: Tensor) -> Field:
    """Return the field of the image itself, (1, C, H, W): each pixel sees itself."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in image.shape[-2:])
    rows, columns = rows.view(1, 1, -1, 1), columns.view(1, 1, 1, -1)
    return Field(kind="local", bounds=(-rows, rows, -columns, columns))


def compact(bound: Tensor) -> Tensor:
    """Keep one place of each axis on which all are equal."""
    for dim in sorted(range(bound.ndim), key=bound.stride):  # first those that only repeat the same memory
        first = bound.narrow(dim, 0, 1)
        if bound.stride(dim) == 0 or torch.equal(bound, first.expand_as(bound)):
            bound = first
    return bound


def _taken(bound: Tensor, dim: int, index: Tensor, step: float) -> tuple[Tensor, float]:
    """The largest of some positions along an axis, and the step that the old ones show, or else `step`."""
    n = bound.shape[dim]
    period, step = _pattern(bound, dim) or (1, step)
    turns = torch.where(index < 0, index // period, 0)
    turns = torch.where(index >= n, (index - n) // period + 1, turns)
    values = bound.index_select(dim, (index - turns * period).flatten()).unflatten(dim, tuple(index.shape))
    beyond = (turns * period * step).masked_fill(index == NOTHING, -math.inf)
    return (values + beyond.view(*index.shape, *(1 for _ in range(-dim - 1)))).amax(dim), step


def _pattern(bound: Tensor, dim: int) -> tuple[int, float] | None:
    """The period after which a bound repeats itself some pixels further on, and its mean step; None: it doesn't."""
    n = bound.shape[dim]
    for period in range(1, n // 2 + 1):
        change = bound.narrow(dim, period, n - period) - bound.narrow(dim, 0, n - period)
        change = change[~change.isnan()]  # positions that see nothing
        if change.numel() and change[0] != 0 and bool((change == change[0]).all()):
            return period, float(change[0]) / period
    return None
