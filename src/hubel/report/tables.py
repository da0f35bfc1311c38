"""The report's tables, ready for the template: confusion matrix, panels of images, pairs, classes, findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hubel.evidence import RunRecord
from hubel.records import PARTS, Finding, by_kind
from hubel.report.confusion import Cell, Grid, pairs
from hubel.report.pictures import Shot, cell_shots
from hubel.report.style import LEVELS
from hubel.report.wording import counted, named, percent, shortened, whole

MOST_PATHS = 200
MOST_PAIRS = 10


def panel_id(label: int, prediction: int) -> str:
    """The name on the page of the panel with a cell's images."""
    return f"cell-{label}-{prediction}"


def confusion(run: RunRecord, grid: Grid) -> dict[str, Any]:
    """The grid, the panels with its cells' images, and the most confused pairs."""
    shots = cell_shots(run, grid)
    classes, matrix = run.card.classes, np.asarray(run.scores.confusion, dtype=np.int64)
    cells = [cell for row in grid.rows for cell in row if (cell.row, cell.column) in shots]
    rows = [[_cell(cell, classes, shots) for cell in row] for row in grid.rows]
    count, longest = len(grid.names), max(map(len, grid.names), default=0)
    return {
        "matrix": {
            "names": grid.names,
            "rows": list(zip(grid.names, rows, strict=True)),
            "hidden": grid.hidden,
            "cell": "2.6rem" if count <= 12 else "2.1rem" if count <= 20 else "1.5rem",
            "head": f"{min(10.0, 1.0 + 0.52 * longest):.1f}em",
            "legend": [(max(1, round(s**0.5 * (LEVELS - 1))), percent(s, 1)) for s in (0.01, 0.05, 0.2, 0.5, 1.0)],
        },
        "panels": [_panel(cell, classes, shots[cell.row, cell.column]) for cell in cells],
        "pairs": [
            {
                "names": (classes[pair.first], classes[pair.second]),
                "counts": (
                    (pair.there, _link(pair.first, pair.second, shots)),
                    (pair.back, _link(pair.second, pair.first, shots)),
                ),
                "share": pair.count / max(1, int(matrix.sum() - np.trace(matrix))),
            }
            for pair in pairs(matrix)[:MOST_PAIRS]
        ],
    }


def _link(row: int, column: int, shots: Mapping[tuple[int, int], Any]) -> str:
    return panel_id(row, column) if (row, column) in shots else ""


def _cell(cell: Cell, classes: Sequence[str], shots: Mapping[tuple[int, int], Any]) -> dict[str, Any]:
    label, prediction = named(classes[cell.row]), named(classes[cell.column])
    return {
        "level": cell.level,
        "right": cell.row == cell.column,
        "count": cell.count,
        "text": f"{counted(cell.count, 'image')} of {label} taken for {prediction}, {percent(cell.share)} of the row",
        "link": _link(cell.row, cell.column, shots),
    }


def _panel(cell: Cell, classes: Sequence[str], shots: list[Shot]) -> dict[str, Any]:
    label, prediction = named(classes[cell.row]), named(classes[cell.column])
    right = cell.row == cell.column
    order = "least confident first" if right else "most confident first"
    shown = f"All {cell.count}" if len(shots) == cell.count else f"{len(shots)} of {whole(cell.count)}"
    text = f"{shown} images, {order}, each with the network's confidence." if cell.count > 1 else "The only image."
    title = f"{label} recognised" if right else f"{label} taken for {prediction}"
    return {"id": panel_id(cell.row, cell.column), "title": title, "text": text, "shots": shots}


def per_class(run: RunRecord) -> dict[str, Any]:
    """The classes with their numbers of images in each part, weakest recall first."""
    scores, counts = run.scores.per_class, run.facts.counts
    supports = [score.support for score in scores]
    parts = [part for part in dict.fromkeys([*PARTS, *counts]) if part in counts and [*counts[part]] != supports]
    order = sorted(range(len(scores)), key=lambda i: (scores[i].support == 0, scores[i].recall, i))
    return {"classes": [(scores[i], [counts[part][i] for part in parts]) for i in order], "count_parts": parts}


def findings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One entry a kind, errors first; a kind that was found often is told by its first case and a list."""
    return [_kind(group) for group in by_kind(found)]


def _kind(group: list[Finding]) -> dict[str, Any]:
    first, several = group[0], len(group) > 1
    listed = [finding.message for finding in group] if several else list(first.paths)
    numbers = [f"{key.replace('_', ' ')}: {_short(value)}" for key, value in first.evidence.items()]
    return {
        "first": first,
        "code": first.code.replace("_", " ").replace("-", " "),
        "files": len({path for finding in group for path in finding.paths}),
        "times": len(group) if several else 0,
        "listed": listed[:MOST_PATHS],
        "rest": max(0, len(listed) - MOST_PATHS),
        "evidence": "" if several else ", ".join(numbers),
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(str(value), 160)
