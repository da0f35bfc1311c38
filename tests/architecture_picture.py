"""The picture of the rooms, drawn from the code; ``python tests/architecture_picture.py`` writes it into docs."""

from __future__ import annotations

import ast
import importlib
import textwrap
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "hubel"
PICTURE = Path(__file__).parents[1] / "docs" / "architecture.svg"
ROWS = (
    ("errors", "as_json", "text"),
    ("records",),
    ("events",),
    ("runs",),
    ("evidence",),
    ("nn", "dataset"),
    ("geometry", "evaluation"),
    ("learning", "explanation", "report"),
    ("doctor",),
    ("jobs",),
    ("flags", "studio", "lab"),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
ROADS = {
    "the road of an image": (
        ("dataset.find:scanning", "files, labels, groups, parts"),
        ("dataset.decode:decode", "one file to pixels, or the reason why not"),
        ("dataset.pack:pack", "all of them, decoded once, in the cache"),
        ("dataset.audit:audit", "what is broken, doubled, leaking"),
        ("dataset.split:split", "train, val and test"),
        ("dataset.loader:Loader.epoch", "augmented batches"),
        ("learning.engine:fit", "the network learns from them"),
        ("evaluation.predict:predict", "and answers for others"),
        ("evaluation.metrics:score", "which is counted"),
        ("jobs.measure:measure", "and kept in the run folder"),
        ("report.page:write_report", "from which the page is drawn"),
    ),
    "the road of a Step": (
        ("learning.engine:fit", "yields it: loss, gradient norm, rate, times"),
        ("jobs.attend:attended", "shows it to the doctor, who adds findings"),
        ("jobs.train:story", "meets it: the one loop of a run"),
        ("jobs.training:keep_pace", "sets the pace, asks whether to stop"),
        ("jobs.state_file:StateWriter.store", "stores the state now and then"),
        ("events:Sampled.taken", "two a second go to log.jsonl"),
        ("report.terminal:show", "all of them move the bar"),
    ),
}
WIDTH, LEFT, ROAD, LINE = 1180, 700, 730, 15
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430}.n{font-weight:600;font-size:14px}.s{fill:#56616f;font-size:11px}"
    ".m{font-family:ui-monospace,monospace;font-size:11.5px}.b{fill:#eef3fb;stroke:#9db4d6}.p{fill:#f8f6ee;stroke:#d6cba0}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e9f0}.s{fill:#a3adba}.b{fill:#1f2b3d;stroke:#48618a}"
    ".p{fill:#2e2a1c;stroke:#7c7040}}"
)


def files_of(unit: str) -> list[Path]:
    """The Python files of a unit: those of a folder, or the one file."""
    return sorted((SOURCE / unit).rglob("*.py")) if (SOURCE / unit).is_dir() else [SOURCE / f"{unit}.py"]


def imported(unit: str) -> list[str]:
    """The units that a unit's files import, inside of functions and for type checking too."""
    known = [name for row in ROWS for name in row]
    found = set()
    for file in files_of(unit):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("hubel.")}
    return [name for name in known if name in found and name != unit]


def purpose(unit: str) -> str:
    """The first sentence of a unit's docstring."""
    file = SOURCE / unit / "__init__.py" if (SOURCE / unit).is_dir() else SOURCE / f"{unit}.py"
    return " ".join(
        (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0].replace("``", "").split()
    )


def check_roads() -> None:
    """Look whether every stop of the roads is there."""
    for stops in ROADS.values():
        for stop, _ in stops:
            module, _, name = stop.partition(":")
            found = importlib.import_module(f"hubel.{module}")
            for part in name.split("."):
                found = getattr(found, part)


def drawn() -> str:
    """The picture as SVG."""
    parts: list[str] = []
    y = 34
    for row in reversed(ROWS):
        width = (LEFT - 20 - 10 * (len(row) - 1)) / len(row)
        texts = [_box_lines(unit, int(width / 6.7)) for unit in row]
        height = 26 + LINE * max(len(lines) for lines in texts)
        for number, (unit, lines) in enumerate(zip(row, texts, strict=True)):
            parts += _box(unit, lines, 20 + number * (width + 10), y, width, height)
        y += height + 10
    height = max(y, _roads(parts) + 10)
    title = "Each room imports only from rows below its own; what it really imports is named in it."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="The rooms of hubel"><style>{STYLE}</style><text class="s" x="20" y="20">{title}</text>'
        + "".join(parts)
        + "</svg>\n"
    )


def _box_lines(unit: str, letters: int) -> list[tuple[str, str]]:
    imports = ", ".join(imported(unit)) or "nothing"
    lines = [("", line) for line in textwrap.wrap(purpose(unit), letters)]
    return lines + [("s", line) for line in textwrap.wrap(f"imports {imports}", int(letters * 1.1))]


def _box(unit: str, lines: list[tuple[str, str]], x: float, y: float, width: float, height: float) -> list[str]:
    kind = "b" if (SOURCE / unit).is_dir() else "p"
    name = f"{unit}/" if kind == "b" else f"{unit}.py"
    return [
        f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{width:.0f}" height="{height}" rx="6"/>',
        f'<text class="n" x="{x + 10:.0f}" y="{y + 18}">{name}</text>',
        *(
            f'<text class="{style}" x="{x + 10:.0f}" y="{y + 34 + LINE * number}">{escape(line)}</text>'
            for number, (style, line) in enumerate(lines)
        ),
    ]


def _roads(parts: list[str]) -> int:
    y = 50
    for title, stops in ROADS.items():
        parts.append(f'<text class="n" x="{ROAD}" y="{y}">{title}</text>')
        for number, (stop, what) in enumerate(stops, 1):
            y += 38
            parts.append(f'<text class="m" x="{ROAD}" y="{y - 10}">{number}  {stop.replace(":", ".")}</text>')
            parts.append(f'<text class="s" x="{ROAD + 22}" y="{y + 6}">{what}</text>')
        y += 52
    return y


if __name__ == "__main__":
    PICTURE.write_text(drawn(), "utf-8")
