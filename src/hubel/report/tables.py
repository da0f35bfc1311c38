"""The report's tables, ready for the template: epochs, confusion matrix, pairs, classes, findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hubel.evidence import RunRecord
from hubel.records import PARTS, Finding, by_kind
from hubel.report.confusion import Cell, Grid, Pair, pairs
from hubel.report.pictures import Shot, cell_shots
from hubel.report.style import LEVELS
from hubel.report.wording import counted, named, percent, plain, shortened, whole

MOST_PATHS = 200


def panel_id(label: int, prediction: int) -> str:
    """The name on the page of the panel with a cell's images."""
    return f"cell-{label}-{prediction}"


def epochs(run: RunRecord) -> list[dict[str, Any]]:
    """The figures behind the charts, one row per epoch."""
    return [
        {
            "epoch": row.epoch,
            "best": row.best,
            "lr": f"{row.lr:.3g}",
            "train_loss": loss(row.train_loss),
            "val_loss": loss(row.val_loss),
            "train_accuracy": percent(row.train_accuracy),
            "val_accuracy": percent(row.val_accuracy),
            "worst_class": plain(row.worst_class),
            "worst_recall": percent(row.worst_recall),
        }
        for row in run.history
    ]


def loss(value: float) -> str:
    """A loss with the digits that matter."""
    return (f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}") if math.isfinite(value) else "not a number"


def confusion(run: RunRecord, grid: Grid) -> dict[str, Any]:
    """The grid, the panels with its cells' images, and the most confused pairs."""
    shots = cell_shots(run, grid)
    classes = [plain(name) for name in run.card.classes]
    matrix = np.asarray(run.scores.confusion, dtype=np.int64)
    wrong = max(1, int(matrix.sum() - np.trace(matrix)))
    cells = [cell for row in grid.rows for cell in row]
    names = [plain(name) for name in grid.names]
    rows = [[_cell(cell, classes, (cell.row, cell.column) in shots) for cell in row] for row in grid.rows]
    count = len(names)
    panels = [_panel(cell, classes, shots[cell.row, cell.column]) for cell in cells if (cell.row, cell.column) in shots]
    return {
        "matrix": {
            "names": names,
            "rows": list(zip(names, rows, strict=True)),
            "hidden": grid.hidden,
            "total": whole(len(classes)),
            "cell": "2.6rem" if count <= 12 else "2.1rem" if count <= 20 else "1.5rem",
            "head": f"{min(10.0, 1.0 + 0.52 * max((len(name) for name in names), default=0)):.1f}em",
            "legend": [(max(1, round(s**0.5 * (LEVELS - 1))), percent(s, 1)) for s in (0.01, 0.05, 0.2, 0.5, 1.0)],
        },
        "panels": panels,
        "pairs": [_pair(pair, classes, wrong, shots) for pair in pairs(matrix)[:10]],
    }


def _cell(cell: Cell, classes: list[str], linked: bool) -> dict[str, Any]:
    label, prediction = named(classes[cell.row]), named(classes[cell.column])
    text = f"{counted(cell.count, 'image')} of {label} predicted as {prediction}, {percent(cell.share)} of the row"
    return {
        "level": cell.level,
        "right": cell.row == cell.column,
        "count": whole(cell.count),
        "text": text,
        "link": panel_id(cell.row, cell.column) if linked else "",
    }


def _panel(cell: Cell, classes: list[str], shots: list[Shot]) -> dict[str, Any]:
    label, prediction = classes[cell.row], classes[cell.column]
    right = cell.row == cell.column
    title = f"{named(label)} recognised" if right else f"{named(label)} taken for {named(prediction)}"
    order = "least confident first" if right else "most confident first"
    shown = f"All {cell.count}" if len(shots) == cell.count else f"{len(shots)} of {whole(cell.count)}"
    text = f"{shown} images, {order}, each with the network's confidence." if cell.count > 1 else "The only image."
    return {"id": panel_id(cell.row, cell.column), "title": title, "text": text, "shots": shots}


def _pair(pair: Pair, classes: list[str], wrong: int, shots: Mapping[tuple[int, int], Any]) -> dict[str, str]:
    there, back = (pair.first, pair.second), (pair.second, pair.first)
    return {
        "first": classes[pair.first],
        "second": classes[pair.second],
        "there": whole(pair.there),
        "back": whole(pair.back),
        "share": percent(pair.count / wrong),
        "there_link": panel_id(*there) if there in shots else "",
        "back_link": panel_id(*back) if back in shots else "",
    }


def per_class(run: RunRecord) -> dict[str, Any]:
    """The table of classes, weakest recall first."""
    parts = [part for part in (*PARTS, *run.facts.counts) if part in run.facts.counts]
    per_class = run.scores.per_class
    supports = tuple(score.support for score in per_class)
    parts = [part for part in dict.fromkeys(parts) if tuple(run.facts.counts[part]) != supports]
    order = sorted(range(len(per_class)), key=lambda i: (per_class[i].support == 0, per_class[i].recall, i))
    rows = [
        {
            "name": plain(per_class[i].name),
            "measures": [
                (_number(v), percent(v) if per_class[i].support else "none")
                for v in (per_class[i].recall, per_class[i].precision, per_class[i].f1)
            ],
            "support": per_class[i].support,
            "support_text": whole(per_class[i].support),
            "counts": [(run.facts.counts[part][i], whole(run.facts.counts[part][i])) for part in parts],
        }
        for i in order
    ]
    return {"classes": rows, "count_parts": [f"in {part}" for part in parts]}


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "0"


def findings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One entry a kind, errors first; a kind that was found often is told by its first case and a list."""
    return [_kind(group) for group in by_kind(found)]


def _kind(group: list[Finding]) -> dict[str, Any]:
    first, several = group[0], len(group) > 1
    listed = [finding.message for finding in group] if several else list(first.paths)
    numbers = [f"{key.replace('_', ' ')}: {_short(value)}" for key, value in first.evidence.items()]
    files = len({path for finding in group for path in finding.paths})
    return {
        "severity": first.severity,
        "code": plain(first.code).replace("_", " ").replace("-", " "),
        "message": plain(first.message),
        "files": counted(files, "file") if files else "",
        "times": f"{whole(len(group))} times, for example:" if several else "",
        "paths": [plain(text) for text in listed[:MOST_PATHS]],
        "rest": whole(len(listed) - MOST_PATHS) if len(listed) > MOST_PATHS else "",
        "left_out": first.left_out,
        "evidence": "" if several else plain(", ".join(numbers)),
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(plain(str(value)), 160)
