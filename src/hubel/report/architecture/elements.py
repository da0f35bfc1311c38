"""The elements of the picture of a network, each with its place, and how wide their texts are.

Coordinates are pixels; x runs to the right, y down, and y = 0 is the line that a row's blocks stand on.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from hubel.report.architecture.blocks import Block, Shape
from hubel.report.architecture.parts import Join

LABEL_SIZE, STAGE_SIZE, FRAME_SIZE = 11.0, 12.0, 13.0  # of the text, in pixels
BEND = 12.0  # width of a wire's bend


@dataclass(frozen=True, kw_only=True)
class Look:
    """How wide things are drawn: a factor for the blocks, and whether labels lie (or stand, which takes less)."""

    scale: float
    lying: bool


@dataclass(frozen=True, kw_only=True)
class Box:
    """A block as drawn; `inside` is what is written into it."""

    x0: float
    x1: float
    top: float
    bottom: float
    block: Block
    inside: str = ""


@dataclass(frozen=True, kw_only=True)
class Arc:
    """A skip: up from `foot0`, across at `top`, down to `foot1`, with the blocks that lie on it."""

    x0: float
    x1: float
    foot0: float
    foot1: float
    top: float
    join: Join
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A connection of branches, level but for the stretch of `BEND` that begins at `bend`."""

    x0: float
    y0: float
    bend: float
    x1: float
    y1: float


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame round what is repeated, and what is written above it (``×35``)."""

    x0: float
    x1: float
    top: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """A label below the line, in the middle of x0 and x1."""

    x0: float
    x1: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A stretch of the line, the shape of what comes out of it, and whether a part ends there."""

    x0: float
    x1: float
    shape: Shape
    ends: bool = True


Element = Box | Arc | Wire | Frame | Note | Extent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the picture, or a piece of it."""

    width: float
    elements: tuple[Element, ...]

    @property
    def top(self) -> float:
        """The highest y of anything in it."""
        edges = [0.0]
        for element in self.elements:
            if isinstance(element, Box):
                edges.append(element.top)
            elif isinstance(element, Arc):
                edges.append(element.top - 6)
            elif isinstance(element, Frame):
                edges.append(element.top - FRAME_SIZE - 4)
        return min(edges)

    def notes_depth(self, look: Look) -> float:
        """How far the labels reach below the line."""
        texts = [element.text for element in self.elements if isinstance(element, Note)]
        return max((LABEL_SIZE + 6 if look.lying else text_width(text, LABEL_SIZE) + 8 for text in texts), default=0.0)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """An estimate, on the safe side, of how wide a text is in the sans-serif fonts that may be used."""
    return size * sum(map(_em, text)) * (1.12 if bold else 1.0)


def _em(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in "iljtfrI.,:;'|!()[] /\u00a0":
        return 0.38
    if character in "mwMW@%→—":
        return 1.0
    return 0.73 if character.isupper() or not character.isascii() else 0.63
