"""The marks that the picture of a network is made of, as SVG, and their colours on paper and on dark screens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import escape

from hubel.report.architecture.blocks import Block, Kind
from hubel.report.architecture.elements import (
    BEND,
    FRAME_SIZE,
    LABEL_SIZE,
    Arc,
    Box,
    Frame,
    Look,
    Note,
    Row,
    Wire,
)
from hubel.report.architecture.parts import Join
from hubel.report.colour import NIGHT, PAPER, ROLES
from hubel.report.wording import plain


class Colour(NamedTuple):
    """A word for the legend, and the fill on paper and on a dark screen."""

    word: str
    paper: str
    night: str


COLOURS: dict[Kind, Colour] = {
    "image": Colour("image", "#8a94a0", "#7b8691"),
    "conv": Colour("convolution", *ROLES["accent"]),
    "depthwise": Colour("depthwise convolution", "#0e8388", "#56c5c9"),
    "up": Colour("upsampling", "#5a7d12", "#a9cf5f"),
    "pool": Colour("pooling", *ROLES["second"]),
    "dense": Colour("dense layer", "#7b3fa6", "#c59bec"),
    "attention": Colour("attention", "#b0286a", "#f18fbd"),
    "gate": Colour("gate (squeeze-and-excitation)", "#c73e0a", "#ff9466"),
    "other": Colour("other operation", "#4b5563", "#9ca3af"),
}
JOINS: dict[Join, tuple[str, str]] = {  # a word for the legend, and how the line is broken
    "add": ("skip, added", ""),
    "cat": ("skip, concatenated", "5 3"),
    "mul": ("skip, multiplied", "1.5 3"),
    "join": ("skip", "8 3 2 3"),
}
INK, MUTED, LINE = (ROLES[role][0] for role in ("ink", "muted", "line"))
ON_SKIP = 9.0


def style() -> str:
    """CSS that puts the dark colours in the place of paper's."""
    pairs = {PAPER: NIGHT, **dict(ROLES.values()), **{c.paper: c.night for c in COLOURS.values()}}
    rules = "".join(
        f'.network [{kind}="{paper}"]{{{kind}:{night}}}'
        for paper, night in pairs.items()
        for kind in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme:dark){{{rules}}}"


def row_marks(row: Row, look: Look, x: float, ground: float) -> Iterator[str]:
    """Everything of a row, from back to front, with its line at y = `ground`."""
    end = x + row.width + 12
    yield path(f"M{number(x - 10)} {number(ground)}H{number(end)}", MUTED)
    yield f'<path d="M{number(end)} {number(ground - 3.5)}l6 3.5l-6 3.5z" fill="{MUTED}"/>'
    kinds: tuple[type, ...] = (Frame, Wire, Arc, Box, Note)
    for kind in kinds:
        for element in row.elements:
            if isinstance(element, kind):
                yield _mark(element, look, x, ground)


def _mark(element: object, look: Look, x: float, y: float) -> str:
    match element:
        case Frame():
            return _frame(element, x, y)
        case Wire():
            return _wire(element, x, y)
        case Arc():
            return _arc(element, x, y)
        case Box():
            return _box(element, x, y)
        case Note():
            return _note(element, look, x, y)
    return ""


def _frame(frame: Frame, x: float, y: float) -> str:
    left, top, wide = x + frame.x0, y + frame.top, frame.x1 - frame.x0
    outline = (
        f'<rect class="repeat" x="{number(left)}" y="{number(top)}" width="{number(wide)}" '
        f'height="{number(4 - frame.top)}" rx="5" fill="none" stroke="{MUTED}" stroke-dasharray="2 3"/>'
    )
    return outline + text(left + wide / 2, top - 5, frame.text, FRAME_SIZE, anchor="middle", weight=650)


def _wire(wire: Wire, x: float, y: float) -> str:
    y0, y1, bend = y + wire.y0, y + wire.y1, x + wire.bend
    middle, after = number(bend + BEND / 2), number(bend + BEND)
    begin, end = f"M{number(x + wire.x0)} {number(y0)}H{number(bend)}", f"H{number(x + wire.x1)}"
    return path(f"{begin}C{middle} {number(y0)} {middle} {number(y1)} {after} {number(y1)}{end}", MUTED)


def _arc(arc: Arc, x: float, y: float) -> str:
    left, right, top = x + arc.x0, x + arc.x1, y + arc.top
    r = min(7.0, (right - left) / 2)
    way = (
        f"M{number(left)} {number(y + arc.foot0)}V{number(top + r)}Q{number(left)} {number(top)} {number(left + r)} "
        f"{number(top)}H{number(right - r)}Q{number(right)} {number(top)} {number(right)} {number(top + r)}"
        f"V{number(y + arc.foot1 - 4)}"
    )
    word, dashes = JOINS[arc.join]
    drawn = path(way, INK, dashes=dashes, width=1.3)
    drawn += f'<path d="M{number(right - 3)} {number(y + arc.foot1 - 5)}h6l-3 5z" fill="{INK}"/>'
    middle = (left + right - len(arc.blocks) * (ON_SKIP + 2) + 2) / 2
    for place, block in enumerate(arc.blocks):
        drawn += _rect(middle + place * (ON_SKIP + 2), top - ON_SKIP / 2, ON_SKIP, ON_SKIP, block)
    return f'<g class="skip"><title>{word}</title>{drawn}</g>'


def _box(box: Box, x: float, y: float) -> str:
    drawn = _rect(x + box.x0, y + box.top, box.x1 - box.x0, box.bottom - box.top, box.block)
    if not box.inside:
        return drawn
    level = y + (box.top + box.bottom) / 2 + LABEL_SIZE * 0.36
    return drawn + text(x + (box.x0 + box.x1) / 2, level, box.inside, LABEL_SIZE, anchor="middle", fill=PAPER)


def _rect(x: float, y: float, wide: float, tall: float, block: Block) -> str:
    return (
        f'<g><title>{escape(plain(block.title))}</title><rect class="{block.kind}" x="{number(x)}" y="{number(y)}" '
        f'width="{number(wide)}" height="{number(tall)}" rx="2" fill="{COLOURS[block.kind].paper}"/></g>'
    )


def _note(note: Note, look: Look, x: float, y: float) -> str:
    middle = x + (note.x0 + note.x1) / 2
    if look.lying:
        return text(middle, y + LABEL_SIZE + 5, note.text, LABEL_SIZE, anchor="middle")
    return text(middle + LABEL_SIZE * 0.36, y + 6, note.text, LABEL_SIZE, anchor="end", standing=True)


def path(way: str, stroke: str, *, dashes: str = "", width: float = 1.0) -> str:
    """A line that is not filled."""
    broken = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{way}" fill="none" stroke="{stroke}" stroke-width="{number(width)}"{broken}/>'


def text(
    x: float,
    y: float,
    words: str,
    size: float,
    *,
    anchor: str = "start",
    weight: int = 400,
    fill: str = INK,
    standing: bool = False,
    halo: bool = False,
) -> str:
    """A line of text at its baseline; a standing one reads upwards, and a halo keeps lines behind it away."""
    turned = f' transform="rotate(-90 {number(x)} {number(y)})"' if standing else ""
    heavy = f' font-weight="{weight}"' if weight != 400 else ""
    heavy += f' paint-order="stroke" stroke="{PAPER}" stroke-width="4"' if halo else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{number(size)}" text-anchor="{anchor}"{heavy} '
        f'fill="{fill}"{turned}>{escape(plain(words))}</text>'
    )


def number(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero, so that the same picture is the same text."""
    return f"{value:.1f}".removesuffix(".0").replace("-0.0", "0")
