"""A network as one picture: an SVG that stands alone, for talks, reports and pages.

Each size of the map has a row. A box is an operation: its colour says which kind, its height the size of the map, and
its text the settings. Colours are those of paper; a style inside of the picture replaces them where the reader's screen
is dark. Coordinates are pixels, y down.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from markupsafe import escape

from hubel.records import Summary
from hubel.report.operations import IMAGE, Box, Join, Kind, Stage, Unit, stages
from hubel.report.style import NIGHT, PAPER, ROLES
from hubel.report.wording import amount, compact, plain, shortened, sides, times, whole

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED = ROLES["ink"][0], ROLES["muted"][0]
WIDE, NARROW, LEAST = 1150.0, 380.0, 620.0  # pixels of a picture beside text, of one on a phone, of the first at least
MARGIN, ASIDE = 14.0, 200.0  # around everything, and of the shapes beside the rows in a wide picture
TITLE, HEADING, SMALL, LABEL = 20.0, 13.0, 12.0, 11.0  # of texts
LOWEST, TALLEST, GAP, JOIN, RISE, ROW_GAP = 19.0, 52.0, 7.0, 16.0, 9.0, 20.0
# A word for the legend, and the fill on paper and on a dark screen.
COLOURS: dict[Kind, tuple[str, str, str]] = {
    "image": ("image", "#5f6b78", "#93a0ad"),
    "conv": ("convolution", *ROLES["accent"]),
    "depthwise": ("depthwise convolution", "#0b7478", "#56c5c9"),
    "up": ("upsampling", "#4f6e10", "#a9cf5f"),
    "pool": ("pooling", *ROLES["second"]),
    "dense": ("dense layer", "#7b3fa6", "#c59bec"),
    "attention": ("attention", "#b0286a", "#f18fbd"),
    "gate": ("gate (squeeze-and-excitation)", "#b53408", "#ff9466"),
    "other": ("other operation", "#4b5563", "#9ca3af"),
}
SIGNS: dict[Join, str] = {  # drawn into the circle where ways come together
    "added": "M-4 0h8M0 -4v8",
    "concatenated": "M-1.8 -3.6v7.2M1.8 -3.6v7.2",
    "multiplied": "M-2.8 -2.8l5.6 5.6M2.8 -2.8l-5.6 5.6",
    "joined": "M-1.2 0h2.4",
}
Run = tuple[tuple[Unit, ...], int]


def architecture_svg(summary: Summary, *, width: float = WIDE, linked: bool = False) -> str:
    """Draw a network; the same summary always gives the same picture.

    Args:
        width: in pixels; rows that are longer go on below, and the picture is wider only where one block needs it.
        linked: whether boxes link to ``#layer-N``, a row of a table on the same page. ``data-layer`` names the layers
            that a box stands for, by their places in the summary, in any case.

    Returns:
        An SVG document with title and description.
    """
    rows, aside = stages(summary), ASIDE if width > LEAST else 0.0
    lines = [_lines(row, width - 2 * MARGIN - aside) for row in rows]
    needed = max(sum(map(_wide, line)) for row in lines for line in row) + aside
    width = max(needed + 2 * MARGIN, min(width, LEAST))
    brush = _Brush(biggest=max(max(row.size) for row in rows if row.size), linked=linked)
    y = brush.write(MARGIN, MARGIN + TITLE - 4, shortened(plain(summary.network), int(width / 24)), TITLE)
    y = brush.list(y, _totals(summary), width - 2 * MARGIN) + 12
    for row, runs in zip(rows, lines, strict=True):
        shape, *numbers = _heading(row)
        y += ROW_GAP if aside else 1.4 * ROW_GAP
        below = brush.write(MARGIN, y + (11 if aside else 0), shape, HEADING)
        below = brush.list(below, numbers, ASIDE if aside else width - 2 * MARGIN, apart=bool(aside))
        y = y if aside else below + 8
        for line in runs:
            y = brush.line(line, MARGIN + aside, y) + 10
        y = max(below, y - 10)
    y = _legend(brush, rows, y + ROW_GAP + 14, width)
    told = f"{' · '.join(_totals(summary))}. Shapes from the image to the answer: {', '.join(map(_shape, rows))}."
    return _document(plain(summary.network), plain(told), brush.drawn, width, y + MARGIN)


def _lines(row: Stage, room: float) -> list[list[Run]]:
    """Divide a row's runs into as many lines as they take."""
    lines: list[list[Run]] = [[]]
    for run in row.runs:
        if lines[-1] and sum(map(_wide, [*lines[-1], run])) > room:
            lines.append([])
        lines[-1].append(run)
    return lines


def _wide(run: Run) -> float:
    """The width of a run with its frame, what is written beside that, and a gap."""
    units, often = run
    framed = 3 * GAP + 8 + text_width(f"×{often}", HEADING, bold=True) if often > 1 else GAP
    return sum(map(_unit_width, units)) + framed


def _unit_width(unit: Unit) -> float:
    return max(sum(_box_width(box) + GAP for box in lane) for lane in unit.lanes or ((),)) + (JOIN if unit.join else 0)


def _box_width(box: Box) -> float:
    return max(30.0, text_width(_label(box), LABEL) + 12)


def _label(box: Box) -> str:
    return shortened(plain(box.label), 24)


@dataclass
class _Brush:
    """What has been drawn so far, and how: `biggest` is the side of the map that is drawn tallest."""

    biggest: int
    linked: bool
    left: tuple[int, ...] = (IMAGE,)  # the layers whose output left the line before
    drawn: list[str] = field(default_factory=list)

    def write(self, x: float, y: float, words: str, size: float) -> float:
        """Write a heading at its baseline, and return that."""
        self.drawn.append(text(x, y, words, size, weight=650))
        return y

    def list(self, y: float, words: Sequence[str], room: float, *, apart: bool = False) -> float:
        """Write words on as few lines as hold them, or each on its own, below y; returns the last baseline."""
        lines: list[str] = []
        for word in words:
            if lines and not apart and text_width(f"{lines[-1]} · {word}", SMALL) <= room:
                lines[-1] += f" · {word}"
            else:
                lines.append(word)
        for n, line in enumerate(lines, 1):
            self.drawn.append(text(MARGIN, y + n * (SMALL + 4), line, SMALL, fill=MUTED))
        return y + len(lines) * (SMALL + 4)

    def line(self, runs: Sequence[Run], x: float, y: float) -> float:
        """Draw runs side by side, their main way on one level; returns where their lowest part ends."""
        units = [unit for run in runs for unit in run[0]]
        tall = max(self.height(box) for unit in units for box in chain(*unit.lanes))
        known = {*self.left, *(end for unit in units for end in unit.ends)}
        rise = max(2 * RISE if known & {*unit.far} and not unit.skip else RISE * unit.skip for unit in units)
        framed = GAP if any(often > 1 for _, often in runs) else 0.0
        level = y + rise + framed + tall / 2
        end = x + sum(map(_wide, runs[:-1])) + sum(map(_unit_width, runs[-1][0]))
        self.drawn.append(path(f"M{number(x - GAP / 2)} {number(level)}H{number(end)}", MUTED))
        places = dict.fromkeys(self.left, x - GAP / 2)
        for run in runs:
            self.run(run, x, y, level, tall, places)
            x += _wide(run)
        self.left = units[-1].ends
        return level + self.depth(units, tall) + framed

    def depth(self, units: Sequence[Unit], tall: float) -> float:
        """How far units reach below their main way."""
        return tall / 2 + (max(len(unit.lanes) for unit in units) - 1) * (tall + 5)

    def run(self, run: Run, x: float, y: float, level: float, tall: float, places: dict[int, float]) -> None:
        """Draw units one after the other, in a frame from y on where they are repeated.

        Args:
            places: layer → x of its output on this line, which grows.
        """
        units, often = run
        if often > 1:
            wide, high = sum(map(_unit_width, units)) + GAP, level + self.depth(units, tall) + GAP - y
            self.drawn.append(
                f'<rect class="repeat" x="{number(x)}" y="{number(y)}" width="{number(wide)}" height="{number(high)}" '
                f'rx="6" fill="none" stroke="{MUTED}" stroke-dasharray="2 3"/>'
            )
            self.write(x + wide + 6, y + 12, f"×{often}", HEADING)
            x += GAP
        for unit in units:
            self.unit(unit, x, level, tall, places)
            x += _unit_width(unit)
            places |= dict.fromkeys(unit.ends, x - GAP / 2)

    def unit(self, unit: Unit, x: float, level: float, tall: float, places: dict[int, float]) -> None:
        """Draw the branches of a unit below each other, the ways around them, and where they come together."""
        end = x + _unit_width(unit) - GAP / 2 - JOIN / 2
        for n, lane in enumerate(unit.lanes):
            middle, left = level + n * (tall + 5), x
            if n:
                way = f"M{number(x - GAP / 2)} {number(level)}V{number(middle)}H{number(end)}V{number(level)}"
                self.drawn.append(path(way, MUTED))
            for box in lane:
                self.box(box, left, middle)
                left += _box_width(box) + GAP
        far = [places[i] for i in unit.far if i in places]
        if unit.skip or far:
            start, top = (x - GAP / 2, level - tall / 2 - RISE + 3) if unit.skip else (max(far), 0.0)
            top = top or level - tall / 2 - 2 * RISE + 3
            self.drawn.append(f'<g class="skip">{path(_bridge(start, end, top, level), INK, width=1.3)}</g>')
        if unit.join:
            circle = f'<circle r="6.5" fill="{PAPER}" stroke="{INK}" stroke-width="1.3"/>'
            self.drawn.append(
                f'<g class="join" transform="translate({number(end)} {number(level)})">'
                f"<title>{escape(plain(unit.told))}</title>{circle}{path(SIGNS[unit.join], INK, width=1.3)}</g>"
            )

    def box(self, box: Box, x: float, middle: float) -> None:
        """Draw an operation, with its left edge at x."""
        wide, tall = _box_width(box), self.height(box)
        tag, link = ("a", f' href="#layer-{box.layers[0]}"') if self.linked and box.layers else ("g", "")
        self.drawn.append(
            f'<{tag} class="box"{link} data-layer="{" ".join(map(str, box.layers))}">'
            f'<title>{escape(plain(box.title))}</title><rect class="{box.kind}" x="{number(x)}" '
            f'y="{number(middle - tall / 2)}" width="{number(wide)}" height="{number(tall)}" rx="4" '
            f'fill="{COLOURS[box.kind][1]}"/>'
            + text(x + wide / 2, middle + LABEL * 0.36, _label(box), LABEL, anchor="middle", fill=PAPER)
            + f"</{tag}>"
        )

    def height(self, box: Box) -> float:
        """It grows with the longer side of the map, less than in proportion."""
        return LOWEST + (TALLEST - LOWEST) * (max(box.size) / self.biggest) ** 0.6 if box.size else LOWEST


def _bridge(x0: float, x1: float, top: float, level: float) -> str:
    return f"M{number(x0)} {number(level)}V{number(top + 6)}q0 -6 6 -6H{number(x1 - 6)}q6 0 6 6V{number(level)}"


def _heading(row: Stage) -> Iterator[str]:
    """What is written beside a row: the shape that leaves it, and its numbers."""
    yield _shape(row)
    if row.parameters or row.macs:
        yield f"{whole(row.parameters) if row.parameters < 10_000 else amount(row.parameters)} parameters"
        yield f"{amount(row.macs)} MACs"
    if row.field is not None:
        yield f"sees {sides(row.field)} pixels"


def _shape(row: Stage) -> str:
    return times((row.channels, *(row.size or ())))


def _totals(summary: Summary) -> list[str]:
    said = [f"{compact(summary.parameters)} parameters", f"{compact(summary.macs)} multiply-accumulates"]
    return said + ([f"receptive field {sides(summary.field)} pixels"] if summary.field is not None else [])


def _legend(brush: _Brush, rows: Sequence[Stage], y: float, width: float) -> float:
    """Write what colours and signs mean, as far as they occur; returns the last baseline."""
    x = MARGIN
    for words, sign, wide in _signs(rows):
        room = wide + text_width(words, SMALL)
        if x > MARGIN and x + room > width - MARGIN:
            x, y = MARGIN, y + SMALL + 8
        brush.drawn.append(f'<g transform="translate({number(x)} {number(y - 4)})">{sign}</g>')
        brush.drawn.append(text(x + wide, y, words, SMALL, fill=MUTED))
        x += room + 14
    return y


def _signs(rows: Sequence[Stage]) -> Iterator[tuple[str, str, float]]:
    """Words, the sign that they explain, and the room that it takes."""
    runs = [run for row in rows for run in row.runs]
    units = [unit for run in runs for unit in run[0]]
    kinds = {box.kind for unit in units for box in chain(*unit.lanes)}
    for kind, (word, paper, _) in COLOURS.items():
        if kind in kinds and kind != "image":
            yield word, f'<rect y="-6" width="12" height="12" rx="3" fill="{paper}"/>', 17
    for join, sign in SIGNS.items():
        if join in {unit.join for unit in units}:
            circle = f'<circle cx="6" r="6" fill="none" stroke="{INK}"/>'
            yield join, f'{circle}<g transform="translate(6 0)">{path(sign, INK, width=1.2)}</g>', 17
    if any(unit.skip for unit in units):
        yield "skip", path(_bridge(0, 18, -5, 5), INK, width=1.3), 23
    if any(often > 1 for _, often in runs):
        yield (
            "repeated",
            f'<rect y="-6" width="16" height="12" fill="none" stroke="{MUTED}" stroke-dasharray="2 3"/>',
            21,
        )


def text(
    x: float, y: float, words: str, size: float, *, anchor: str = "start", weight: int = 400, fill: str = INK
) -> str:
    """A line of text at its baseline."""
    placed = f'x="{number(x)}" y="{number(y)}" font-size="{number(size)}" text-anchor="{anchor}"'
    heavy = f' font-weight="{weight}"' if weight != 400 else ""
    return f'<text {placed}{heavy} fill="{fill}">{escape(plain(words))}</text>' if words else ""


def path(way: str, stroke: str, *, width: float = 1.0) -> str:
    """A line that is not filled."""
    return f'<path d="{way}" fill="none" stroke="{stroke}" stroke-width="{number(width)}"/>'


def number(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero, so that the same picture is the same text."""
    return f"{value:.1f}".removesuffix(".0").replace("-0.0", "0")


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


def _document(name: str, told: str, drawn: Sequence[str], width: float, height: float) -> str:
    pairs = {PAPER: NIGHT, **dict(ROLES.values()), **{paper: night for _, paper, night in COLOURS.values()}}
    rules = "".join(
        f'.network [{kind}="{paper}"]{{{kind}:{night}}}'
        for paper, night in pairs.items()
        for kind in ("fill", "stroke")
    )
    sides = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="network" {sides} role="img" font-family="{escape(FONTS)}">'
        f"<title>Architecture of {escape(name)}</title><desc>{escape(told)}</desc>"
        f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{"".join(drawn)}</svg>\n'
    )
