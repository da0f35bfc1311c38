"""Where everything in the picture of a network stands: blocks on a line, skips above it, branches above each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hubel.report.architecture.blocks import Block, Shape, times
from hubel.report.architecture.elements import (
    BEND,
    FRAME_SIZE,
    LABEL_SIZE,
    STAGE_SIZE,
    Arc,
    Box,
    Element,
    Extent,
    Frame,
    Look,
    Note,
    Row,
    Wire,
    text_width,
)
from hubel.report.architecture.fold import Run
from hubel.report.architecture.parts import Cell, Part, Skip
from hubel.report.wording import shortened

TALLEST, LOWEST, THINNEST, LOWEST_CELL = 150.0, 10.0, 8.0, 7.0
GAP, PART_GAP, LANE_GAP, FRAME, SKIP_RISE = 5.0, 10.0, 4.0, 7.0, 15.0
LONGEST_LABEL = 24  # characters


def arranged(runs: Sequence[Run], look: Look, biggest: int, width: float) -> list[Row]:
    """Place runs from left to right, in as many rows as it takes; `biggest` is the side that is drawn tallest."""
    rows: list[list[Row]] = [[]]
    used = 0.0
    for piece in (_run(run, look, biggest) for run in runs):
        if rows[-1] and used + PART_GAP + piece.width > width:
            rows.append([])
            used = 0.0
        used += piece.width + (PART_GAP if rows[-1] else 0.0)
        rows[-1].append(piece)
    return [_joined(row) for row in rows]


def stages(row: Row) -> list[tuple[float, float, str]]:
    """Stretches of the line on which the map has one size, with what to write below: (x0, x1, text)."""
    found: list[list[Extent]] = []
    for extent in (element for element in row.elements if isinstance(element, Extent)):
        if found and _map(found[-1][-1].shape) == _map(extent.shape):
            found[-1].append(extent)
        else:
            found.append([extent])
    return [(group[0].x0, group[-1].x1, _stage_text(group)) for group in found]


def _map(shape: Shape) -> tuple[int, int] | None:
    """The size of the map; a single position is no map."""
    return None if shape[1] == (1, 1) else shape[1]


def _stage_text(group: Sequence[Extent]) -> str:
    """The shape that leaves the stage: of its last whole part, as the next one may have begun with this size."""
    first, last = group[0].shape, next((e.shape for e in reversed(group) if e.ends), group[-1].shape)
    if (size := _map(last)) is not None:
        return times((last[0], *size))
    return f"{first[0]} → {last[0]}" if first[0] != last[0] else str(last[0])


def _height(size: tuple[int, int] | None, biggest: int) -> float:
    """Height of a block: it grows with the longer side of the map, less than in proportion."""
    return LOWEST if size is None else LOWEST + (TALLEST - LOWEST) * (max(size) / biggest) ** 0.6


def _width(block: Block, look: Look) -> float:
    """Width of a block: it grows with the logarithm of the channels."""
    return max(THINNEST, look.scale * (5 + 2.6 * math.log2(1 + block.channels)))


def _run(run: Run, look: Look, biggest: int) -> Row:
    row = _joined([_branching(part, look, biggest) if part.cells else _line(part, look, biggest) for part in run.parts])
    return row if run.times == 1 else _framed(row, f"×{run.times}")


def _framed(row: Row, text: str) -> Row:
    """Put a frame round a row, at least as wide as what is written above it."""
    room = max(FRAME, (text_width(text, FRAME_SIZE, bold=True) - row.width) / 2)
    width = row.width + 2 * room
    frame = Frame(x0=0.0, x1=width, top=row.top - 5, text=text)
    return Row(width=width, elements=(*_shifted(row, room), frame))


def _joined(pieces: Sequence[Row]) -> Row:
    elements: list[Element] = []
    x = -PART_GAP
    for piece in pieces:
        elements += _shifted(piece, x + PART_GAP)
        x += PART_GAP + piece.width
    return Row(width=x, elements=tuple(elements))


def _shifted(row: Row, by: float) -> list[Element]:
    return [
        replace(e, x0=e.x0 + by, x1=e.x1 + by, bend=e.bend + by)
        if isinstance(e, Wire)
        else replace(e, x0=e.x0 + by, x1=e.x1 + by)
        for e in row.elements
    ]


def _line(part: Part, look: Look, biggest: int) -> Row:
    """Blocks side by side, and skips above them."""
    boxes: list[Box] = []
    elements: list[Element] = []
    borders = {first for first, _, _ in part.spans} | {first + count for first, count, _ in part.spans}
    x = 0.0
    for number, block in enumerate(part.blocks):
        x += (GAP if number else 0.0) + 2 * FRAME * (number in borders)
        label, wide = shortened(block.label, LONGEST_LABEL), _width(block, look)
        last = number == len(part.blocks) - 1
        shape = part.shape if last and part.shape[1] == block.size else (block.channels, block.size)
        room = max(wide, _lying_room(label, shape)) if look.lying else wide
        left = x + (room - wide) / 2
        boxes.append(Box(x0=left, x1=left + wide, top=-_height(block.size, biggest), bottom=0.0, block=block))
        elements.append(Note(x0=x, x1=x + room, text=label))
        if block.kind != "image":  # its label says its shape
            elements.append(Extent(x0=left, x1=left + wide, shape=shape, ends=last))
        x += room
    width = x + 2 * FRAME * (len(boxes) in borders)
    row = Row(width=width, elements=(*boxes, *elements, *_arcs(part.skips, boxes)))
    row = replace(row, elements=(*row.elements, *(_inner_frame(row, boxes, span) for span in part.spans)))
    return _framed(row, f"+ {part.beside} operations on branches") if part.beside else row


def _lying_room(label: str, shape: Shape) -> float:
    """So wide that neither the labels nor the shapes of neighbours touch."""
    below = times((shape[0], *(shape[1] or ())))
    return max(text_width(label, LABEL_SIZE) + 6, text_width(below, STAGE_SIZE, bold=True) + 8)


def _inner_frame(row: Row, boxes: Sequence[Box], span: tuple[int, int, int]) -> Frame:
    first, count, repeats = span
    x0, x1 = boxes[first].x0 - FRAME, boxes[first + count - 1].x1 + FRAME
    return Frame(x0=x0, x1=x1, top=row.top - 5, text=f"×{repeats}")


def _arcs(skips: Sequence[Skip], boxes: Sequence[Box]) -> list[Arc]:
    """Skips as arcs, the inner ones below those that span them."""
    level: dict[Skip, int] = {}
    for skip in sorted(skips, key=lambda skip: (skip.end - skip.start, skip.start)):
        inner = [n for other, n in level.items() if skip.start <= other.start and other.end <= skip.end]
        level[skip] = 1 + max(inner, default=-1)
    arcs = []
    for skip, rise in level.items():
        over = boxes[skip.start : skip.end]
        arcs.append(
            Arc(
                x0=over[0].x0 - 3,
                x1=over[-1].x1 + 3,
                foot0=over[0].top / 2,
                foot1=over[-1].top / 2,
                top=min(box.top for box in over) - 9 - rise * SKIP_RISE,
                join=skip.join,
                blocks=skip.blocks,
            )
        )
    return arcs


def _branching(part: Part, look: Look, biggest: int) -> Row:
    """Branches above each other, wired in the order in which they read."""
    lanes, columns = (1 + max(cell.lane for cell in part.cells), 1 + max(cell.column for cell in part.cells))
    room = [_column_width([c for c in part.cells if c.column == column], look) for column in range(columns)]
    lowest = LABEL_SIZE + 6 if look.lying else LOWEST_CELL
    tall = max(lowest, (_height(part.shape[1], biggest) - (lanes - 1) * LANE_GAP) / lanes)
    starts = [BEND + sum(room[:column]) + BEND * column for column in range(columns)]
    boxes = []
    for cell in part.cells:
        x0, bottom = starts[cell.column], -cell.lane * (tall + LANE_GAP)
        text = shortened(cell.block.label, LONGEST_LABEL) if look.lying else ""
        boxes.append(
            Box(x0=x0, x1=x0 + room[cell.column], top=bottom - tall, bottom=bottom, block=cell.block, inside=text)
        )
    width = starts[-1] + room[-1] + BEND
    text = f"{lanes} branches, {part.shape[0]}"
    return Row(
        width=width,
        elements=(
            *_wires(part.cells, boxes, width, -(lanes * (tall + LANE_GAP) - LANE_GAP) / 2),
            *boxes,
            Note(x0=0.0, x1=width, text=text),
            Extent(x0=0.0, x1=width, shape=part.shape),
        ),
    )


def _column_width(cells: Sequence[Cell], look: Look) -> float:
    widest = max(_width(cell.block, look) for cell in cells)
    if not look.lying:
        return widest
    return max(widest, *(text_width(shortened(c.block.label, LONGEST_LABEL), LABEL_SIZE) + 8 for c in cells))


def _wires(cells: Sequence[Cell], boxes: Sequence[Box], width: float, middle: float) -> list[Wire]:
    def level(box: Box) -> float:
        return (box.top + box.bottom) / 2

    wires = []
    for cell, box in zip(cells, boxes, strict=True):
        for source in cell.reads:
            if source < 0:
                wires.append(Wire(x0=0.0, y0=middle, bend=0.0, x1=box.x0, y1=level(box)))
            else:
                before = boxes[source]
                wires.append(Wire(x0=before.x1, y0=level(before), bend=box.x0 - BEND, x1=box.x0, y1=level(box)))
    read = {source for cell in cells for source in cell.reads}
    last = [box for number, box in enumerate(boxes) if number not in read]
    return wires + [Wire(x0=b.x1, y0=level(b), bend=width - BEND, x1=width, y1=middle) for b in last]
