"""What a tensor sees of the image, position by position.

A sight is ``local`` (each position sees a patch; along which axes of the tensor the positions lie is known), ``mixed``
(each position sees the whole image, as behind attention) or ``pooled`` (the positions are gone, as behind global
pooling). What is not known for an operation is called mixed, never guessed.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hubel.geometry import reach
from hubel.geometry.reach import Reach

Kind = Literal["local", "mixed", "pooled"]
Atom = int | Reach  # of one axis of a tensor: so many channels or the like, or positions
Dim = tuple[Atom, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """What a tensor sees of the image.

    Attributes:
        dims: of a local sight, the atoms of every axis of the tensor, the slowest first (a flattened map has three).
        sees_all: whether the whole image matters to every position too, through a side branch or a norm's statistics.
    """

    kind: Kind
    dims: tuple[Dim, ...] = ()
    sees_all: bool = False

    @property
    def axes(self) -> tuple[Reach, Reach] | None:
        """What positions see along height and width; None where it is not a patch."""
        found = {r.axis: r for r in positions(self.dims)}
        return (found[0], found[1]) if self.kind == "local" and len(found) == 2 else None

    @property
    def is_map(self) -> bool:
        """Whether height and width are axes of the tensor of their own."""
        return self.axes is not None and all(len(positions((dim,))) < 2 for dim in self.dims)


MIXED, POOLED = Sight(kind="mixed"), Sight(kind="pooled")


def of_image(image: Tensor) -> Sight:
    """Return the sight of the image itself, (1, C, H, W)."""
    height, width = image.shape[-2:]
    dims: tuple[Dim, ...] = tuple((size,) for size in image.shape[:-2])
    return Sight(kind="local", dims=(*dims, (reach.whole_axis(0, height),), (reach.whole_axis(1, width),)))


def positions(dims: Sequence[Dim]) -> list[Reach]:
    """All position axes among these axes of a tensor."""
    return [atom for dim in dims for atom in dim if isinstance(atom, Reach)]


def merged(seen: Sequence[tuple[Tensor, Sight]], shape: Sequence[int]) -> Sight:
    """Return what the elementwise combination of tensors sees, broadcast to `shape`."""
    ndim = len(shape)
    local = [aligned(sight.dims, ndim) for _, sight in seen if sight.kind == "local"]
    dims: list[Dim] = list(local[0])
    for other in local[1:]:
        for d, (a, b) in enumerate(zip(dims, other, strict=True)):
            both = _merge_dim(a, b)
            if both is None:
                return MIXED
            dims[d] = both
    spread = [d for d, dim in enumerate(dims) if positions((dim,))]
    for tensor, sight in seen:
        if sight.kind == "pooled" and not all(_broadcast(tensor, d - ndim) for d in spread):
            return MIXED
    partial = any(s.kind == "pooled" or s.axes is None for _, s in seen)
    full: list[Dim] = [(size,) if dim == (1,) else dim for dim, size in zip(dims, shape, strict=True)]
    return Sight(kind="local", dims=tuple(full), sees_all=partial or any(s.sees_all for _, s in seen))


def aligned(dims: tuple[Dim, ...], ndim: int) -> tuple[Dim, ...]:
    return ((1,),) * (ndim - len(dims)) + dims


def _merge_dim(a: Dim, b: Dim) -> Dim | None:
    if a == (1,) or b == (1,):
        return b if a == (1,) else a
    if not positions((a,)) and not positions((b,)):
        return a
    if len(a) != len(b):
        return None
    atoms: list[Atom] = []
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Reach) and isinstance(y, Reach) and x.axis == y.axis and len(x) == len(y):
            atoms.append(reach.union(x, y))
        elif isinstance(x, int) and x == y:
            atoms.append(x)
        else:
            return None
    return tuple(atoms)


def _broadcast(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor has the same numbers all along that axis (counted from the end)."""
    return -dim > tensor.ndim or tensor.shape[dim] == 1 or tensor.stride(dim) == 0


def resolved(dim: Dim) -> Atom | None:
    """Return an axis as one atom: its channels, or its positions; None where it is neither."""
    found = [d for d, atom in enumerate(dim) if isinstance(atom, Reach)]
    if not found:
        return math.prod(a for a in dim if isinstance(a, int))
    before = [a for a in dim[: found[0]] if a != 1]
    if len(found) > 1 or before:
        return None
    times = math.prod(a for a in dim[found[0] + 1 :] if isinstance(a, int))
    whole = dim[found[0]]
    assert isinstance(whole, Reach)
    return reach.repeated(whole, times) if times > 1 else whole


def regrouped(atoms: Sequence[Atom], shape: Sequence[int]) -> tuple[Dim, ...] | None:
    """Distribute atoms over the axes of a new shape, splitting them where needed; None where they don't fit.

    Positions that are split see their patches together in the slower part, and the faster part counts as channels:
    exact where those are mixed next (space to depth), an upper bound otherwise.
    """
    rest = [atom for atom in atoms if length(atom) != 1][::-1]
    dims: list[Dim] = []
    for size in shape:
        dim = _taken(rest, size)
        if dim is None:
            return None
        dims.append(dim)
    return None if rest else _with_singles(dims, atoms)


def _taken(rest: list[Atom], size: int) -> Dim | None:
    """Take atoms off the end of `rest` until there are `size`."""
    dim: list[Atom] = []
    have = 1
    while have < size:
        if not rest or size % have:
            return None
        atom, need = rest.pop(), size // have
        if length(atom) > need:
            if length(atom) % need:
                return None
            atom, faster = _parted(atom, need)
            rest.append(faster)
        dim.append(atom)
        have *= length(atom)
    return (tuple(dim) or (1,)) if have == size else None


def _parted(atom: Atom, need: int) -> tuple[Atom, Atom]:
    if isinstance(atom, int):
        return need, atom // need
    step = len(atom) // need
    return reach.sliding(atom, need, kernel=step, stride=step), step


def _with_singles(dims: list[Dim], atoms: Sequence[Atom]) -> tuple[Dim, ...]:
    """Maps of one position: it goes to an axis of length 1 at the same place among the others, or else beside them."""
    ends = list(itertools.accumulate((math.prod(map(length, dim)) for dim in dims), operator.mul))
    singles: dict[int, list[Atom]] = {}
    before = 1
    for atom in atoms:
        before *= length(atom)
        if isinstance(atom, Reach) and len(atom) == 1:
            singles.setdefault(before, []).append(atom)
    for place, found in singles.items():
        free = [d for d, dim in enumerate(dims) if dim == (1,) and ends[d] == place]
        spots = free or [next(d for d, end in enumerate(ends) if end >= place)]
        for number, atom in enumerate(found[::-1]):
            d = spots[-1 - min(number, len(spots) - 1)]
            dims[d] = (atom,) if dims[d] == (1,) else (atom, *dims[d])
    return tuple(dims)


def length(atom: Atom) -> int:
    """Return how many channels or positions an atom is."""
    return len(atom) if isinstance(atom, Reach) else atom
