"""The parts of a network: its graph, cut wherever a single tensor carries everything.

Between two cuts lies one operation, or several with ways around them: a residual block, branches. Normalisation,
activations and reshaping are no operations of their own here; they belong to the block before them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from hubel.records import Layer, Summary
from hubel.report.architecture.blocks import Block, Shape, block_of, channels_and_size, kind_of

Join = Literal["add", "cat", "mul", "join"]
IMAGE = -1
MOST_LANES, MOST_COLUMNS, MOST_ON_A_SKIP = 8, 8, 2
JOINS: dict[str, Join] = {"add": "add", "sub": "add", "cat": "cat", "concat": "cat", "stack": "cat", "mul": "mul"}


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A way around blocks: from the place before block `start` to the place before block `end`, and what is on it."""

    start: int
    end: int
    join: Join
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A block of a part that branches: its branch, its column, and the cells it reads (-1: what comes in)."""

    block: Block
    lane: int
    column: int
    reads: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What lies between two cuts: blocks in a line with skips around them; or cells, where it branches.

    Attributes:
        shape: of what comes out.
        spans: (first block, number of blocks, times) of what is repeated inside.
        beside: operations on side branches that are too many to draw.
    """

    shape: Shape
    blocks: tuple[Block, ...] = ()
    skips: tuple[Skip, ...] = ()
    cells: tuple[Cell, ...] = ()
    spans: tuple[tuple[int, int, int], ...] = ()
    beside: int = 0


@dataclass(kw_only=True)
class _Node:
    """An operation or a join, with the nodes it reads."""

    block: Block | None
    join: Join
    reads: tuple[int, ...]
    shape: Shape


def parts(summary: Summary) -> list[Part]:
    """Cut a network into parts, in the order in which they run."""
    nodes = _gates_closed(_nodes(summary))
    return [part for entry, region in _regions(nodes) if (part := _part(nodes, entry, region)).blocks or part.cells]


def _nodes(summary: Summary) -> list[_Node]:
    """Operations and joins only; a layer that is neither stands for what it reads."""
    nodes: list[_Node] = []
    stands: dict[int, int] = {IMAGE: IMAGE}
    for index, layer in enumerate(summary.layers):
        reads = tuple(dict.fromkeys(stands.get(i, IMAGE) for i in layer.inputs))
        kind = kind_of(layer)
        if kind is None and len(reads) < 2:
            stands[index] = reads[0] if reads else IMAGE
            continue
        stands[index] = len(nodes)
        block = None if kind is None else block_of(layer, kind)
        shape = channels_and_size(layer.shape) if block is None else (block.channels, block.size)
        nodes.append(_Node(block=block, join=_join(layer), reads=reads, shape=shape))
    return nodes


def _join(layer: Layer) -> Join:
    return JOINS.get(layer.kind.lower().rstrip("_"), "join")


def _gates_closed(nodes: list[_Node]) -> list[_Node]:
    """Draw what computes a smaller factor for a map (squeeze-and-excitation) as one block on the map's way."""
    gone: set[int] = set()
    for index, node in enumerate(nodes):
        if node.join != "mul" or node.block is not None or len(node.reads) != 2 or IMAGE in node.reads:
            continue
        gate, carrier = sorted(node.reads, key=lambda i: _numbers(nodes[i].shape))
        inside = _before(nodes, gate) - _before(nodes, carrier) - gone
        blocks = [block for i in sorted(inside) if (block := nodes[i].block) is not None]
        elsewhere = {i for n, other in enumerate(nodes) if n != index and n not in inside for i in other.reads}
        if not blocks or inside & elsewhere or _numbers(nodes[gate].shape) >= _numbers(nodes[carrier].shape):
            continue
        channels, size = node.shape
        title = "; ".join(block.title for block in blocks)
        node.block = Block(kind="gate", label="gate", title=title, inputs=channels, channels=channels, size=size)
        node.reads = (carrier,)
        gone |= inside
    return _without(nodes, gone)


def _numbers(shape: Shape) -> int:
    channels, size = shape
    return channels * prod(size or ())


def _before(nodes: Sequence[_Node], index: int) -> set[int]:
    """A node and all that it depends on."""
    seen: set[int] = set()
    front = [index]
    while front:
        here = front.pop()
        if here != IMAGE and here not in seen:
            seen.add(here)
            front += nodes[here].reads
    return seen


def _without(nodes: Sequence[_Node], gone: set[int]) -> list[_Node]:
    kept = [index for index in range(len(nodes)) if index not in gone]
    new = {old: place for place, old in enumerate(kept)} | {IMAGE: IMAGE}
    return [replace(nodes[i], reads=tuple(new[r] for r in nodes[i].reads if r in new)) for i in kept]


def _regions(nodes: Sequence[_Node]) -> list[tuple[int, list[int]]]:
    """Where a single node carries everything: that node, and those until the next such place."""
    last = {IMAGE: -1}
    for index, node in enumerate(nodes):
        last |= dict.fromkeys(node.reads, index)
    regions: list[tuple[int, list[int]]] = []
    entry, region, active = IMAGE, [], {IMAGE}
    for index in range(len(nodes)):
        region.append(index)
        active = {i for i in active | {index} if last.get(i, -1) > index}
        if len(active) <= 1:
            regions.append((entry, region))
            entry, region = (next(iter(active)) if active else index), []
    return [*regions, *([(entry, region)] if region else [])]


def _part(nodes: Sequence[_Node], entry: int, region: Sequence[int]) -> Part:
    main, shape = _longest(nodes, region, set(region), region[-1]), nodes[region[-1]].shape
    place, count = {entry: 0}, 0
    for index in main:
        count += nodes[index].block is not None
        place[index] = count
    line = [index for index in main if nodes[index].block is not None]
    rest = {i for i in region if i not in place}
    lanes = _lanes(nodes, region, {i for i in rest if nodes[i].block is not None})
    skips = _direct_skips(nodes, main, place)
    blocks = tuple(block for i in line if (block := nodes[i].block) is not None)
    around = [_around(nodes, lane, place, region) for lane in lanes]
    if all(skip is not None and skip.join == "add" and len(skip.blocks) <= MOST_ON_A_SKIP for skip in around):
        skips += [skip for skip in around if skip is not None]
        return Part(shape=shape, blocks=blocks, skips=tuple(sorted(skips, key=lambda s: (s.start, s.end, s.join))))
    cells = _cells(nodes, entry, region, [line, *lanes])
    if 1 + len(lanes) > MOST_LANES or max(cell.column for cell in cells) >= MOST_COLUMNS:
        return Part(shape=shape, blocks=blocks, skips=tuple(skips), beside=sum(map(len, lanes)))
    return Part(shape=shape, cells=cells)


def _longest(nodes: Sequence[_Node], region: Sequence[int], allowed: set[int], end: int | None = None) -> list[int]:
    """The way within the allowed nodes that has most operations on it, then most work; to `end`, or anywhere."""
    length: dict[int, tuple[int, int]] = {}
    back: dict[int, int | None] = {}
    for index in region:
        if index not in allowed:
            continue
        before = [i for i in nodes[index].reads if i in length]
        back[index] = max(before, key=lambda i: length[i], default=None)
        operations, macs = max((length[i] for i in before), default=(0, 0))
        block = nodes[index].block
        length[index] = (operations, macs) if block is None else (operations + 1, macs + block.macs)
    at: int | None = max(length, key=lambda i: length[i]) if end is None else end
    way: list[int] = []
    while at is not None:
        way.append(at)
        at = back[at]
    return way[::-1]


def _lanes(nodes: Sequence[_Node], region: Sequence[int], rest: set[int]) -> list[list[int]]:
    """Cover the operations beside the main way by ways of their own, the longest first."""
    lanes = []
    while rest:
        lanes.append(_longest(nodes, region, rest))
        rest = rest - set(lanes[-1])
    return lanes


def _direct_skips(nodes: Sequence[_Node], main: Sequence[int], place: dict[int, int]) -> list[Skip]:
    """Reads of a join on the main way that lead there from another place on it, without an operation."""
    found = []
    for index in main:
        node = nodes[index]
        if node.block is not None:
            continue
        starts = {place[i] for i in _sources(nodes, node.reads, place) if place[i] < place[index]}
        found += [Skip(start=start, end=place[index], join=node.join) for start in sorted(starts)]
    return found


def _sources(nodes: Sequence[_Node], reads: Iterable[int], known: Container[int]) -> set[int]:
    """The known nodes that reach these reads through joins alone."""
    return {index for index in _through_joins(nodes, reads, known) if index in known}


def _through_joins(nodes: Sequence[_Node], reads: Iterable[int], known: Container[int]) -> set[int]:
    """These reads, and what they read as far as they are joins that aren't known."""
    seen: set[int] = set()
    front = [*reads]
    while front:
        index = front.pop()
        if index not in seen:
            seen.add(index)
            if index not in known and index != IMAGE and nodes[index].block is None:
                front += nodes[index].reads
    return seen


def _around(nodes: Sequence[_Node], lane: Sequence[int], place: dict[int, int], region: Sequence[int]) -> Skip | None:
    """A side way as a skip, if it leads from one place of the main way to a later join on it."""
    starts = [place[i] for i in _sources(nodes, nodes[lane[0]].reads, place)]
    reached = {lane[-1]}
    for index in region:
        if not reached.isdisjoint(nodes[index].reads):
            if index in place:
                end, join = place[index], nodes[index].join
                blocks = tuple(block for i in lane if (block := nodes[i].block) is not None)
                fits = len(starts) == 1 and starts[0] < end and nodes[index].block is None
                return Skip(start=starts[0], end=end, join=join, blocks=blocks) if fits else None
            if nodes[index].block is not None:
                return None
            reached.add(index)
    return None


def _cells(
    nodes: Sequence[_Node], entry: int, region: Sequence[int], lanes: Sequence[Sequence[int]]
) -> tuple[Cell, ...]:
    """Every operation with its branch and its column, in the order in which they run."""
    lane_of = {index: number for number, lane in enumerate(lanes) for index in lane}
    number = {index: place for place, index in enumerate(i for i in region if i in lane_of)}
    cells: list[Cell] = []
    for index in number:
        sources = sorted(_sources(nodes, nodes[index].reads, number))
        outside = entry in _through_joins(nodes, nodes[index].reads, number)
        reads = (*((IMAGE,) if outside else ()), *(number[i] for i in sources))
        column = max((cells[number[i]].column + 1 for i in sources), default=0)
        block = nodes[index].block
        assert block is not None
        cells.append(Cell(block=block, lane=lane_of[index], column=column, reads=reads))
    return tuple(cells)
