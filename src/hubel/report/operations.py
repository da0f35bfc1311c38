"""What of a network is drawn: a row for each size of the map, with its operations, the ways around them, and repeats.

Normalisation, activations and reshaping are no operations of their own here; they belong to the one before them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from hubel.records import Layer, Summary
from hubel.report.wording import sides, times

Kind = Literal["image", "conv", "depthwise", "up", "pool", "dense", "attention", "gate", "other"]
Join = Literal["added", "concatenated", "multiplied", "joined"]
Size = tuple[int, int] | None  # height and width of a map; None for a vector
JOINS: dict[str, Join] = {
    "add": "added",
    "sub": "added",
    "cat": "concatenated",
    "concat": "concatenated",
    "stack": "concatenated",
    "mul": "multiplied",
}
DENSE = {"linear", "addmm", "bilinear", "lazylinear"}
PRODUCTS = {"mm", "bmm", "matmul", "einsum"}
IMAGE = -1
LONGEST_PERIOD = 12  # units of what repeats
MANY = 32  # boxes: larger networks are folded where a sequence comes twice, others where it comes three times


@dataclass(frozen=True, kw_only=True)
class Box:
    """One operation: `layers` are its places in the summary, several where it is repeated or a gate.

    Attributes:
        label: its settings in a few characters (``3×3, 64``); title: everything about it in a sentence.
        size: of the map that comes out.
    """

    layers: tuple[int, ...]
    kind: Kind
    label: str
    title: str
    size: Size


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Operations that belong together: one, or a block of branches that come together at its end.

    Attributes:
        lanes: operations of each branch in the order in which they run.
        channels, size: of what comes out. join: what happens at the end; told: the same in a sentence.
        skip: whether a way without an operation leads around the block to its end.
        ends: the layer whose output leaves it, of each repeat. far: such layers of earlier units that join at its end.
    """

    lanes: tuple[tuple[Box, ...], ...]
    channels: int
    size: Size
    ends: tuple[int, ...] = (IMAGE,)
    far: tuple[int, ...] = ()
    join: Join | None = None
    told: str = ""
    skip: bool = False

    @property
    def sign(self) -> Hashable:
        """What two units have in common that may be drawn as one."""
        return tuple(tuple(box.label for box in lane) for lane in self.lanes), self.join, self.skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The operations that give out maps of one size: (units, how often they come one after the other), and totals."""

    runs: tuple[tuple[tuple[Unit, ...], int], ...]
    channels: int
    size: Size
    parameters: int = 0
    macs: int = 0
    field: tuple[int, int] | None = None


def stages(summary: Summary) -> list[Stage]:
    """Divide a network into rows, in the order in which they run; the image is the first."""
    channels, height, width = summary.input
    image = Box(layers=(), kind="image", label="image", title=f"image: {times(summary.input)}", size=(height, width))
    unit = Unit(lanes=((image,),), channels=channels, size=image.size)
    found = [Stage(runs=(((unit,), 1),), channels=channels, size=unit.size)]
    groups: list[list[Unit]] = []
    for unit in _units(summary):
        if not groups or groups[-1][-1].size != unit.size:
            groups.append([])
        groups[-1].append(unit)
    boxes = sum(len(lane) for group in groups for unit in group for lane in unit.lanes)
    starts = [0, *(min(i for unit in group for lane in unit.lanes for i in lane[0].layers) for group in groups[1:])]
    for group, start, end in zip(groups, starts, [*starts[1:], None], strict=False):
        layers, last = summary.layers[start:end], group[-1]
        stage = Stage(
            runs=tuple(_folded(group, 3 if boxes <= MANY else 2)),
            channels=last.channels,
            size=last.size,
            parameters=sum(layer.parameters for layer in layers),
            macs=sum(layer.macs for layer in layers),
            field=layers[-1].field,
        )
        found.append(stage)
    return found


def _units(summary: Summary) -> Iterator[Unit]:
    """Group operations into blocks that end where ways come together, and single ones between them.

    `lanes` are the branches since the last such place, which is `start` and read `before`. An operation goes on with
    the branch that it reads the end of; where it reads anything else, a new branch begins.
    """
    start, before, lanes = IMAGE, set[int](), list[list[int]]()
    stands, gates = {IMAGE: IMAGE}, dict[int, list[int]]()  # layer → whose output it passes on; → what it stands for
    for index, layer in enumerate(summary.layers):
        reads = list(dict.fromkeys(stands.get(i, IMAGE) for i in layer.inputs)) or [start]
        joins = kind_of(layer) is None
        stands[index] = index if len(reads) > 1 or not joins else reads[0]
        if stands[index] != index:
            continue
        main = lanes[0] if lanes else []
        inside = max((main.index(i) + 1 for i in reads if i in main[:-1]), default=0)
        tail = main[inside:] if inside or start in reads else []
        if (
            joins
            and tail
            and all(channels_and_size(summary.layers[i])[1] is None for i in tail)
            and layer.kind == "mul"
        ):
            gates[index], lanes[0] = tail, [*main[:inside], index]
            continue
        if inside and len(lanes) == 1 and (joins or main[-1] not in reads):
            for single in main[:inside]:  # the block begins after them
                yield _unit(summary, gates, [[single]])
            start, before, lanes = main[inside - 1], set(), [tail]
        if joins:
            skip = start in reads or (bool(before) and before <= {*reads})  # a dense block reads all that came before
            yield _unit(summary, gates, lanes, index, skip=skip, far=[i for i in reads if i < start])
            start, before, lanes = index, {*reads}, []
        elif (lane := next((lane for lane in lanes if lane[-1] in reads), None)) is not None:
            lane.append(index)
        else:
            lanes.append([index])
    rest = [[[single]] for single in lanes[0]] if len(lanes) == 1 else [lanes] if lanes else []
    yield from (_unit(summary, gates, lane) for lane in rest)


def _unit(
    summary: Summary,
    gates: Mapping[int, Sequence[int]],
    lanes: Sequence[Sequence[int]],
    join: int | None = None,
    *,
    skip: bool = False,
    far: Sequence[int] = (),
) -> Unit:
    end = lanes[0][-1] if join is None else join
    last = summary.layers[end]
    channels, size = channels_and_size(last)
    boxes = tuple(tuple(_box(summary, i, gates.get(i, ())) for i in lane) for lane in lanes)
    if join is None:
        return Unit(lanes=boxes, channels=channels, size=size, ends=(end,))
    what = JOINS.get(last.kind.lower().rstrip("_"), "joined")
    names = ", ".join(summary.layers[i].name if i >= 0 else "the image" for i in far)
    told = f"{last.name}: {what}" + (f", with what left {names}" if names else "")
    return Unit(lanes=boxes, channels=channels, size=size, ends=(end,), far=tuple(far), join=what, told=told, skip=skip)


def _folded(units: Sequence[Unit], least: int) -> Iterator[tuple[tuple[Unit, ...], int]]:
    """Find units, or sequences of them, that come at least so often one after the other."""
    signs = [unit.sign for unit in units]
    at = 0
    while at < len(units):
        period, often = _repeat(signs, at)
        if often < least:
            period, often = 1, 1
        repeats = [units[at + n * period : at + (n + 1) * period] for n in range(often)]
        yield tuple(map(_merged, zip(*repeats, strict=True))), often
        at += period * often


def _repeat(signs: Sequence[Hashable], at: int) -> tuple[int, int]:
    """The period and the number of repeats from here that cover most; the shorter period where they cover as much."""
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(signs) - at) // 2) + 1):
        first, often = signs[at : at + period], 1
        while signs[at + period * often : at + period * (often + 1)] == first:
            often += 1
        if often > 1 and period * often > best[0] * best[1]:
            best = (period, often)
    return best


def _merged(units: Sequence[Unit]) -> Unit:
    """Draw equal units as one, whose boxes stand for the layers of all."""
    lanes = tuple(
        tuple(
            replace(
                same[0], layers=tuple(i for box in same for i in box.layers), title="; ".join(b.title for b in same)
            )
            for same in zip(*lane, strict=True)
        )
        for lane in zip(*(unit.lanes for unit in units), strict=True)
    )
    return replace(units[0], lanes=lanes, ends=tuple(end for unit in units for end in unit.ends))


def _box(summary: Summary, index: int, gate: Sequence[int]) -> Box:
    layer, layers = summary.layers[index], tuple(gate) or (index,)
    kind = "gate" if gate else kind_of(layer)
    assert kind is not None
    title = "; ".join(_title(summary.layers[i]) for i in layers)
    label, size = "gate" if gate else _label(layer, kind), channels_and_size(layer)[1]
    return Box(layers=layers, kind=kind, label=label, title=title, size=size)


def _title(layer: Layer) -> str:
    field = "the whole image" if layer.field is None else f"{sides(layer.field)} pixels"
    shapes = f"{times(layer.input_shape)} → {times(layer.shape)}"
    what = f"{layer.kind} {layer.detail}".strip()
    return f"{layer.name}: {what}, {shapes}, {layer.parameters:,} parameters, sees {field}"


def _label(layer: Layer, kind: Kind) -> str:
    channels, size = channels_and_size(layer)
    kernel = re.match(r"\d+(?:×\d+)*", layer.detail)
    stride = re.search(r"stride (\d+(?:×\d+)*)", layer.detail)
    window = kernel.group() if kernel else ""
    step = f" /{stride.group(1)}" if stride and stride.group(1) not in ("1", "1×1") else ""
    pooled = "max" if "max" in layer.kind.lower() else "mean"
    words = {
        "conv": f"{window}{step}, {channels}",
        "depthwise": f"{window}{step} depthwise",
        "up": f"{window or 'up'}{step}, {channels}",
        "pool": f"{pooled} {window}{step}" if window else f"{pooled} to {times(size)}" if size else f"global {pooled}",
        "dense": f"dense {channels}",
        "attention": "attention",
    }
    return words.get(kind, layer.kind).removeprefix(", ")


def kind_of(layer: Layer) -> Kind | None:
    """What a layer is drawn as; None where it is drawn as nothing."""
    name = layer.kind.lower()
    if "attention" in name:
        return "attention"
    if "convtranspose" in name or "conv_transpose" in name or "upsample" in name or name in ("interpolate", "fold"):
        return "up"
    if name.startswith(("conv", "lazyconv")):
        return "depthwise" if "depthwise" in layer.detail else "conv"
    if name in DENSE or name in PRODUCTS:
        return "dense" if name in DENSE else "attention"
    if "unpool" in name:
        return "up"
    if "pool" in name or (name in ("mean", "amax", "max") and prod(layer.shape) < prod(layer.input_shape)):
        return "pool"
    return "other" if layer.macs else None


def channels_and_size(layer: Layer) -> tuple[int, Size]:
    """Channels, height and width of what comes out; tokens count as a square map, channels may come last."""
    shape = layer.shape
    if len(shape) == 3 and (kind_of(layer) in ("dense", "attention") or shape[0] == shape[1] != shape[2]):
        return shape[2], (shape[0], shape[1])
    if len(shape) == 2:
        side = max(1, round(shape[0] ** 0.5))
        return shape[1], (side, side)
    size = (shape[-2], shape[-1]) if len(shape) > 2 else None
    return (shape[0] if shape else 1), None if size == (1, 1) else size
