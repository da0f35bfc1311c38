"""A network as one picture: an SVG that stands alone, for talks, reports and pages.

The height of a block shows the size of the map, its width the channels, its colour the kind of operation. Colours are
those of paper; a style inside of the picture replaces them where the reader's screen is dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import escape

from hubel.records import Summary
from hubel.report.architecture.blocks import Block, times
from hubel.report.architecture.elements import STAGE_SIZE, Arc, Box, Frame, Look, Row, text_width
from hubel.report.architecture.fold import Run, folded
from hubel.report.architecture.layout import arranged, stages
from hubel.report.architecture.marks import COLOURS, INK, JOINS, LINE, MUTED, number, path, row_marks, style, text
from hubel.report.architecture.parts import Part, parts
from hubel.report.colour import PAPER
from hubel.report.wording import compact, plain, shortened

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDEST, NARROWEST, MARGIN, INDENT, ROW_GAP = 1200.0, 640.0, 24.0, 8.0, 40.0
ROOM = WIDEST - 2 * MARGIN
TITLE_SIZE, TEXT_SIZE, LINE_HEIGHT = 20.0, 13.0, 17.0
MOST_UNFOLDED = 32  # blocks; a longer network is folded although it might fit
# What is tried in turn until one row holds the network: what is folded, how wide it is drawn, how labels run.
LOOKS = (
    ("nothing", Look(scale=1.6, lying=True)),
    ("nothing", Look(scale=1.6, lying=False)),
    ("nothing", Look(scale=1.25, lying=False)),
    ("nothing", Look(scale=1.0, lying=False)),
    ("equal", Look(scale=1.3, lying=True)),
    ("equal", Look(scale=1.5, lying=False)),
    ("equal", Look(scale=1.2, lying=False)),
    ("equal", Look(scale=0.95, lying=False)),
    ("equal", Look(scale=0.7, lying=False)),
    ("similar", Look(scale=0.7, lying=False)),
    ("similar", Look(scale=0.45, lying=False)),
)
FALLBACK = ("equal", Look(scale=0.8, lying=False))


def architecture_svg(summary: Summary) -> str:
    """Draw a network; the same summary always gives the same picture.

    Returns:
        An SVG document, at most `WIDEST` pixels wide unless a single part needs more, with title and description.
    """
    rows, look = _fitting(summary)
    title, totals = _title(plain(summary.network)), _totals(summary)
    content = max(row.width for row in rows)
    needed = max(text_width(title, TITLE_SIZE, bold=True), text_width(totals, TEXT_SIZE))
    width = max(content + 2 * INDENT, min(max(needed, NARROWEST - 2 * MARGIN), ROOM)) + 2 * MARGIN
    y = MARGIN + TITLE_SIZE
    drawn = [text(MARGIN, y, title, TITLE_SIZE, weight=650)]
    for line in _wrapped(totals.split(" · "), " · ", width - 2 * MARGIN):
        y += LINE_HEIGHT + 3
        drawn.append(text(MARGIN, y, line, TEXT_SIZE, fill=MUTED))
    for row in rows:
        x, ground = MARGIN + INDENT, y + 26 - row.top
        drawn += row_marks(row, look, x, ground)
        sizes, y = _stages(row, x, ground + row.notes_depth(look) + 8, width)
        drawn += sizes
        y += ROW_GAP - 26 if row is not rows[-1] else 0
    key, y = _legend(rows, y + 30, width)
    shapes = ", ".join(dict.fromkeys(words for row in rows for _, _, words in stages(row)))
    told = f"{totals}. Shapes from the image to the answer: {times(summary.input)}, {shapes}."
    return _document(plain(summary.network), plain(told), [*drawn, *key], width, y + MARGIN)


def _fitting(summary: Summary) -> tuple[list[Row], Look]:
    """The rows of the first look that takes one row only; several rows, if none does."""
    whole = [_image(summary), *parts(summary)]
    runs: dict[str, Sequence[Run]] = {
        "nothing": [Run(parts=(part,)) for part in whole],
        "equal": folded(whole, loosely=False),
        "similar": folded(whole, loosely=True),
    }
    biggest = max(max(size) for part in whole for size in _sizes(part))
    blocks = sum(len(part.blocks) + len(part.cells) for part in whole)
    for folding, look in LOOKS:
        if folding != "nothing" or blocks <= MOST_UNFOLDED:
            rows = arranged(runs[folding], look, biggest, ROOM - 2 * INDENT)
            if len(rows) == 1:
                return rows, look
    folding, look = FALLBACK
    return arranged(runs[folding], look, biggest, ROOM - 2 * INDENT), look


def _image(summary: Summary) -> Part:
    channels, *size = summary.input
    block = Block(
        kind="image",
        label=f"image {'×'.join(map(str, summary.input))}",
        title=f"image: {times(summary.input)}",
        inputs=channels,
        channels=channels,
        size=(size[0], size[1]),
    )
    return Part(shape=(channels, block.size), blocks=(block,))


def _sizes(part: Part) -> Iterator[tuple[int, int]]:
    for block in (*part.blocks, *(cell.block for cell in part.cells)):
        if block.size is not None:
            yield block.size


def _title(name: str) -> str:
    """The name, its middle cut out where it is too long for the picture."""
    limit = min(len(name), 100)
    while text_width(shortened(name, limit), TITLE_SIZE, bold=True) > ROOM:
        limit -= 1
    return shortened(name, limit)


def _totals(summary: Summary) -> str:
    said = [f"{compact(summary.parameters)} parameters", f"{compact(summary.macs)} multiply-accumulates"]
    if summary.field is not None:
        rows, columns = summary.field
        said.append(f"receptive field {rows}{f' × {columns}' if rows != columns else ''} pixels")
    return " · ".join(said)


def _wrapped(words: Sequence[str], between: str, room: float) -> list[str]:
    """Words put on as few lines as hold them."""
    lines: list[str] = []
    for word in words:
        if lines and text_width(lines[-1] + between + word, TEXT_SIZE) <= room:
            lines[-1] += between + word
        else:
            lines.append(word)
    return lines


def _stages(row: Row, x: float, y: float, width: float) -> tuple[list[str], float]:
    """Brackets with shapes below the labels; a text without room slides aside or goes down. Also the y of the end."""
    drawn: list[str] = []
    ends: list[float] = []  # of each line's last text
    for x0, x1, words in stages(row):
        half, middle = text_width(words, STAGE_SIZE, bold=True) / 2, x + (x0 + x1) / 2
        slack = max((x1 - x0) / 2 - half, 0.0) + half / 2
        middle = min(max(middle, half + MARGIN / 2), width - half - MARGIN / 2)
        fits = (n for n, end in enumerate(ends) if end + 8 + half <= middle + slack)
        line = next(fits, len(ends))
        if line < len(ends):
            middle = max(middle, ends[line] + 8 + half)
        ends[line:] = [middle + half, *ends[line + 1 :]]
        level = y + 5 + LINE_HEIGHT * (line + 1)
        drawn.append(path(f"M{number(x + x0)} {number(y)}v4H{number(x + x1)}v-4", MUTED))
        if line:
            drawn.append(path(f"M{number(middle)} {number(y + 4)}V{number(level - STAGE_SIZE)}", LINE))
        drawn.append(text(middle, level, words, STAGE_SIZE, anchor="middle", weight=650, halo=True))
    return drawn, y + 8 + LINE_HEIGHT * len(ends)


def _legend(rows: Sequence[Row], y: float, width: float) -> tuple[list[str], float]:
    """What colours and lines mean, as far as they occur, in as few lines as hold it. Also the y of the end."""
    drawn, x = [], MARGIN
    for words, sign, wide in _signs(rows):
        room = wide + text_width(words, STAGE_SIZE)
        if x > MARGIN and x + room > width - MARGIN:
            x, y = MARGIN, y + LINE_HEIGHT + 3
        if sign:
            drawn.append(f'<g transform="translate({number(x)} {number(y)})">{sign}</g>')
        drawn.append(text(x + wide, y, words, STAGE_SIZE, fill=MUTED))
        x += room + 16
    return drawn, y


def _signs(rows: Sequence[Row]) -> Iterator[tuple[str, str, float]]:
    """Words, the sign that they explain, and the room that it takes."""
    elements = [element for row in rows for element in row.elements]
    arcs = [element for element in elements if isinstance(element, Arc)]
    blocks = [e.block for e in elements if isinstance(e, Box)] + [block for arc in arcs for block in arc.blocks]
    kinds, joins = {block.kind for block in blocks} - {"image"}, {arc.join for arc in arcs}
    for kind, colour in COLOURS.items():
        if kind in kinds:
            yield colour.word, f'<rect y="-10" width="13" height="12" rx="2" fill="{colour.paper}"/>', 19
    for join, (word, dashes) in JOINS.items():
        if join in joins:
            yield word, path("M0 -4h22", INK, dashes=dashes, width=1.3), 28
    if any(arc.blocks for arc in arcs):
        yield "a block on the skip", path("M0 -4h22", INK, width=1.3) + _small_square(), 28
    if any(isinstance(element, Frame) and element.text.startswith("×") for element in elements):
        yield "repeated", path("M0 -10h22v12h-22z", MUTED, dashes="2 3"), 28
    yield "height: size of the map; width: channels, on a logarithmic scale", "", 0


def _small_square() -> str:
    return f'<rect x="6.5" y="-8.5" width="9" height="9" rx="2" fill="{COLOURS["conv"].paper}"/>'


def _document(name: str, told: str, drawn: Sequence[str], width: float, height: float) -> str:
    sides = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="network" {sides} role="img" font-family="{escape(FONTS)}">'
        f"<title>Architecture of {escape(name)}</title><desc>{escape(told)}</desc><style>{style()}</style>"
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{"".join(drawn)}</svg>\n'
    )
