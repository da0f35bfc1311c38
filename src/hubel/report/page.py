"""The report of a run: one HTML file that needs nothing else, its pictures as PNG, the confusion matrix as CSV.

Everything is drawn from the files of the run folder alone, so that it can be drawn again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hubel.evidence import RunRecord
from hubel.records import Finding
from hubel.report.confidence import confidence
from hubel.report.confusion import Grid, as_csv, grid, surest_errors
from hubel.report.pictures import (
    EXPLAINED,
    MOST_FILTERS,
    augmented_shot,
    explained,
    filter_sheets,
    measured_shot,
    picture_files,
    plain_shot,
)
from hubel.report.story import causes, part_name, verdict
from hubel.report.style import asset, filled, style_sheet
from hubel.report.tables import confusion, findings, panel_id, per_class
from hubel.report.wording import bare_percent, compact, duration, loss, percent, whole
from hubel.runs import make_folder, reseal, write_bytes, write_text

# As PNG files
DRAWN = ("curves", "confusion", "per_class", "confidence", "worst", "filters", "gradcam", "augmentation")
MOST_WORST = 24
STRIP = 128  # pixels of the pictures beside a cause, twice what the page shows


def write_report(run: str | Path) -> Path:
    """Write report.html, confusion.csv and pictures/*.png into a finished run's folder; returns the page's path.

    A picture for which nothing was kept is not written, and an older one of that name is removed. Each file is replaced
    at once, so a reader never sees half of one.

    Raises:
        RunError: the folder holds no finished run, or one of an older layout; a file is damaged, or can't be written.
    """
    # Drawing takes about a second to import, and most of hubel's commands draw nothing.
    from hubel.report import charts

    record = RunRecord.open(run)
    matrix, worst = grid(record), surest_errors(record, MOST_WORST)
    told = confidence(record)
    moments = [(number, finding.step) for number, finding in enumerate(_seen(record), 1) if finding.step is not None]
    page = _page(record, matrix, worst, told, charts.for_page(record.history, told, moments))
    files = {name: charts.png(drawing) for name, drawing in charts.for_files(record, matrix, told).items()}
    files |= dict(picture_files(record, worst))
    folder = make_folder(record.path / "pictures")
    for name in DRAWN:
        if name in files:
            write_bytes(folder / f"{name}.png", files[name])
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_text(record.path / "confusion.csv", as_csv(record.card.classes, record.scores.confusion))
    write_text(record.path / "report.html", page)
    reseal(record.path, ["report.html", "confusion.csv", *(f"pictures/{name}.png" for name in DRAWN)])
    return record.path / "report.html"


def shown_images(run: RunRecord) -> list[int]:
    """Indices of the measured images that a report may show, the most telling ones first: what is worth keeping."""
    told = [i for cause in causes(run) for i in cause.images]
    cells = (index for _, index in grid(run).cells_in_turn())
    return list(dict.fromkeys([*surest_errors(run, MOST_WORST), *told, *cells]))


def _page(run: RunRecord, matrix: Grid, worst: list[int], told: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    """Fill the template; `drawn` holds the charts as SVG."""
    script, folder = asset("report.js"), run.facts.folder
    tables = confusion(run, matrix)
    sections: dict[str, Any] = {
        **tables,
        **per_class(run),
        "causes": _causes(run, {panel["id"] for panel in tables["panels"]}),
        "curves": _curves(run, drawn),
        "told": told,
        "told_charts": [
            (Markup(drawn["reliability"]), f"Share of right answers by confidence. {told['calibration'][0]}"),
            (Markup(drawn["coverage"]), f"Accuracy among the surest answers, {percent(run.scores.accuracy)} of all"),
        ],
        "worst": [measured_shot(run, i) for i in worst],
        "explained": [(name, shots) for name in EXPLAINED if (shots := explained(run, name))],
        **_filters(run),
        "augmented": augmented_shot(run),
        "seen": _seen(run),
        "findings": findings([finding for finding in run.findings if finding.step is None]),
    }
    return filled(
        "report.html",
        **sections,
        **_head(run),
        run=run,
        facts=run.facts,
        scores=run.scores,
        contents=_contents(run, sections),
        folder=shlex.quote(folder),
        model=json.dumps(Path(folder, "model").as_posix(), ensure_ascii=False),
        style=Markup(style_sheet(charts=True)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _contents(run: RunRecord, sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "causes": ("Causes of error", True),
        "curves": ("Training", sections["curves"]),
        "confusion": ("Confusion matrix", True),
        "classes": ("Classes", True),
        "confidence": ("Confidence", True),
        "slices": ("Kinds of images", sections["told"]["slices"]),
        "worst": ("Worst errors", True),
        "gradcam": ("Where it looked", sections["explained"] or run.facts.explained_by),
        "filters": ("Filters", sections["filters"]),
        "augmentation": ("Augmentation", sections["augmented"]),
        "findings": ("Findings in the data", True),
        "settings": ("Settings", True),
        "use": ("Use the model", True),
        "notes": ("Limits", run.facts.notes),
    }
    return [(key, name) for key, (name, present) in names.items() if present]


def _head(run: RunRecord) -> dict[str, Any]:
    scores, baselines = run.scores, run.baselines
    low, high = scores.interval
    interval = f"{bare_percent(low, scores.n)} to {percent(high, scores.n)}"
    rivals = [("most frequent class", baselines.majority)]
    if baselines.logistic is not None and math.isfinite(baselines.logistic):
        rivals.insert(0, ("logistic regression", baselines.logistic))
    return {
        "part": part_name(run),
        "interval": interval,
        "rivals": rivals,
        "notices": _notices(run),
        "verdict": verdict(run),
        "figures": [
            ("balanced accuracy", percent(scores.balanced_accuracy, scores.n)),
            *([("among the top five", percent(scores.top5, scores.n))] if scores.top5 is not None else []),
            ("images in all", whole(sum(map(sum, run.facts.counts.values())))),
            ("classes", whole(len(run.card.classes))),
            ("network", run.card.architecture),
            ("parameters", compact(run.facts.parameters)),
            ("time", duration(run.facts.seconds)),
        ],
    }


def _notices(run: RunRecord) -> list[str]:
    notices = [f"The run ended early. {run.facts.stopped}"] if run.facts.stopped else []
    if run.reported == "val":
        notices.append(
            "The data came without a test part, so the figures are of its val part. It was not used for choosing: "
            "the images that decided which epoch is best were split off from train."
        )
    return [*notices, *run.missing]


def _causes(run: RunRecord, linked: set[str]) -> list[dict[str, Any]]:
    """Titles, sentences and pictures of the likeliest causes; `linked` are the panels that exist."""
    found = causes(run)
    names = ["" if cause.cell is None else panel_id(*cause.cell) for cause in found]
    return [
        {
            "title": cause.title,
            "text": cause.text,
            "shots": [measured_shot(run, i, side=STRIP) for i in cause.images if i in run.thumbnails],
            "link": name if name in linked else "",
        }
        for cause, name in zip(found, names, strict=True)
    ]


def _curves(run: RunRecord, drawn: Mapping[str, str]) -> list[tuple[Markup, str]]:
    """The charts of the training with a text for those who do not see them."""
    if not run.history:
        return []
    first, last = run.history[0], run.history[-1]
    texts = {
        "loss": f"Loss {{}}: validation {loss(first.val_loss)} to {loss(last.val_loss)}",
        "accuracy": f"Accuracy {{}}: validation {percent(first.val_accuracy)} to {percent(last.val_accuracy)}",
        "rate": f"Learning rate {{}}: {first.lr:.3g} to {last.lr:.3g}",
    }
    span = f"from epoch {first.epoch} to {last.epoch}"
    return [(Markup(drawn[name]), text.format(span)) for name, text in texts.items()]


def _seen(run: RunRecord) -> list[Finding]:
    """What the doctor saw while the network was trained."""
    return [finding for finding in run.findings if finding.step is not None]


def _filters(run: RunRecord) -> dict[str, Any]:
    """First-layer filters before and after training, and a text about them."""
    sheets = filter_sheets(run)
    if not sheets:
        return {"filters": [], "filters_text": ""}
    count, channels, height, width = next(a for name, a in run.pictures.items() if name.startswith("filters.")).shape
    drawn = f"the first {MOST_FILTERS} of {whole(count)}" if count > MOST_FILTERS else f"all {whole(count)}"
    kind = {3: "in colour", 1: "in grey"}.get(channels, f"in grey, the first of their {channels} channels")
    text = (
        f"Weights of the first convolution, {height} × {width} pixels, {drawn} filters {kind}. Middle grey is zero; "
        "each filter has its own scale."
    )
    shots = [(name, plain_shot(sheet, f"Filters {name.lower()}", pixelated=True)) for name, sheet in sheets.items()]
    return {"filters": shots, "filters_text": text}
