"""The page's sections about what was measured: causes of error, curves, confusion matrix, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from hubel.records import PARTS
from hubel.report.colour import LEVELS
from hubel.report.confusion import Answers, Cell, Grid, Pair, pairs
from hubel.report.evidence import Evidence
from hubel.report.story import causes
from hubel.report.thumbnails import Shot, cell_shots, measured_shot
from hubel.report.wording import counted, named, percent, plain, whole


def shown_causes(evidence: Evidence, said: Answers, linked: set[str]) -> list[dict[str, Any]]:
    """Titles, sentences and pictures of the likeliest causes; `linked` are the panels that exist."""
    return [
        {
            "title": cause.title,
            "text": cause.text,
            "shots": [measured_shot(evidence, said, i, side=128) for i in cause.images],
            "link": _link(cause.cell, linked),
        }
        for cause in causes(evidence, said)
    ]


def _link(cell: tuple[int, int] | None, linked: set[str]) -> str:
    name = "" if cell is None else _panel_id(*cell)
    return name if name in linked else ""


def _panel_id(label: int, prediction: int) -> str:
    return f"cell-{label}-{prediction}"


def curves(evidence: Evidence, drawn: Mapping[str, str]) -> list[tuple[Markup, str]]:
    """The charts of the training with a text for those who do not see them."""
    if not evidence.history:
        return []
    first, last = evidence.history[0], evidence.history[-1]
    span = f"from epoch {first.epoch} to {last.epoch}"
    return [
        (Markup(drawn["loss"]), f"Loss {span}: validation {_loss(first.val_loss)} to {_loss(last.val_loss)}"),
        (
            Markup(drawn["accuracy"]),
            f"Accuracy {span}: validation {percent(first.val_accuracy)} to {percent(last.val_accuracy)}",
        ),
        (Markup(drawn["rate"]), f"Learning rate {span}: {first.lr:.3g} to {last.lr:.3g}"),
    ]


def epochs(evidence: Evidence) -> list[dict[str, Any]]:
    """The figures behind the charts, one row per epoch."""
    return [
        {
            "epoch": row.epoch,
            "best": row.best,
            "lr": f"{row.lr:.3g}",
            "train_loss": _loss(row.train_loss),
            "val_loss": _loss(row.val_loss),
            "train_accuracy": percent(row.train_accuracy),
            "val_accuracy": percent(row.val_accuracy),
            "worst_class": plain(row.worst_class),
            "worst_recall": percent(row.worst_recall),
        }
        for row in evidence.history
    ]


def _loss(value: float) -> str:
    return (f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}") if math.isfinite(value) else "not a number"


def confusion(evidence: Evidence, said: Answers, grid: Grid) -> dict[str, Any]:
    """The grid, the panels with its cells' images, and the most confused pairs."""
    shots = cell_shots(evidence, said, grid)
    classes = [plain(name) for name in evidence.card.classes]
    matrix = np.asarray(evidence.scores.confusion, dtype=np.int64)
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
        "link": _panel_id(cell.row, cell.column) if linked else "",
    }


def _panel(cell: Cell, classes: list[str], shots: list[Shot]) -> dict[str, Any]:
    label, prediction = classes[cell.row], classes[cell.column]
    right = cell.row == cell.column
    title = f"{named(label)} recognised" if right else f"{named(label)} taken for {named(prediction)}"
    order = "least confident first" if right else "most confident first"
    shown = f"All {cell.count}" if len(shots) == cell.count else f"{len(shots)} of {whole(cell.count)}"
    text = f"{shown} images, {order}, each with the network's confidence." if cell.count > 1 else "The only image."
    return {"id": _panel_id(cell.row, cell.column), "title": title, "text": text, "shots": shots}


def _pair(pair: Pair, classes: list[str], wrong: int, shots: Mapping[tuple[int, int], Any]) -> dict[str, str]:
    there, back = (pair.first, pair.second), (pair.second, pair.first)
    return {
        "first": classes[pair.first],
        "second": classes[pair.second],
        "there": whole(pair.there),
        "back": whole(pair.back),
        "share": percent(pair.count / wrong),
        "there_link": _panel_id(*there) if there in shots else "",
        "back_link": _panel_id(*back) if back in shots else "",
    }


def per_class(evidence: Evidence) -> dict[str, Any]:
    """The table of classes, weakest recall first."""
    parts = [part for part in (*PARTS, *evidence.counts) if part in evidence.counts]
    per_class = evidence.scores.per_class
    supports = tuple(score.support for score in per_class)
    parts = [part for part in dict.fromkeys(parts) if tuple(evidence.counts[part]) != supports]
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
            "counts": [(evidence.counts[part][i], whole(evidence.counts[part][i])) for part in parts],
        }
        for i in order
    ]
    return {"classes": rows, "count_parts": [f"in {part}" for part in parts]}


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "0"
