"""The runs view: what the given folders hold, a training as it goes on, and what a finished run answers."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse

from hubel.as_json import to_json
from hubel.dataset.folder import grouped
from hubel.dataset.relabel import labels_csv, read_labels
from hubel.errors import HubelError, UsageError
from hubel.events import outcome
from hubel.evidence import RunRecord
from hubel.jobs.answer import Classifier
from hubel.report.confusion import grid, surest_errors, worst_first
from hubel.report.pictures import data_uri, encoded, overlay, picture
from hubel.runs import write_text
from hubel.studio.guard import Places

router = APIRouter(prefix="/api")
FRESH = 60.0  # seconds: a log that has not grown for longer belongs to a training that was stopped
TOLD = ("step", "epoch_row", "finding", "finished")  # events of a log that the page draws
POINTS = 3000  # steps that are sent of what went by before the page was opened
ORDER = ("error", "warning", "note")
MOST = 60  # findings, errors and images of a cell that are shown
REPORT = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
explaining = threading.Lock()  # a model is looked into by one request at a time


def the_run(request: Request, run: str) -> Path:
    """The folder of the run that a request names."""
    places: Places = request.app.state.places
    return places.run(run)


Run = Annotated[Path, Depends(the_run)]


@router.get("/runs")
def listed(request: Request) -> dict[str, Any]:
    """Every run of the given folders, those that were written to last ahead."""
    places: Places = request.app.state.places
    rows = [_row(name, path) for name, path in places.runs().items()]
    rows.sort(key=lambda row: -row["changed"])
    return {"runs": rows, "folders": [str(f) for f in places.folders], "trainings": request.app.state.trainings.rows()}


def _finished(run: Path) -> RunRecord:
    """A finished run, of which each file is read once for all requests until it is written again."""
    manifest = run / "manifest.json"
    return _record(run, manifest.stat().st_mtime if manifest.exists() else 0.0)


@functools.lru_cache(maxsize=64)
def _record(run: Path, changed: float) -> RunRecord:  # noqa: ARG001
    return RunRecord.open(run)


def _row(name: str, path: Path) -> dict[str, Any]:
    log = path / "log.jsonl"
    changed = (log if log.exists() else path).stat().st_mtime
    state = "training" if time.time() - changed < FRESH else "stopped"
    row: dict[str, Any] = {"name": name, "changed": changed, "state": state}
    try:
        run = RunRecord(path)
        row |= {"network": run.card.architecture, "classes": len(run.card.classes)} if _planned(path) else {}
        if history := run.history:
            row |= {"epoch": history[-1].epoch, "epochs": history[-1].epochs, "seconds": history[-1].seconds}
            row["validation"] = max(each.val_accuracy for each in history)
        if (path / "manifest.json").exists():
            said = _finished(path).scores
            row |= {"state": "finished", "accuracy": said.accuracy, "interval": said.interval, "n": said.n}
    except HubelError as error:
        row |= {"state": "damaged", "error": str(error)}
    return row


def _planned(path: Path) -> bool:
    return (path / "plan.json").exists()


@router.get("/run")
def one(run: Run) -> dict[str, Any]:
    """All that the page shows of a run; of one that is not finished, what is there."""
    record = RunRecord(run)
    said: dict[str, Any] = {"folder": str(run)}
    if _planned(run):
        said |= {"classes": record.card.classes, "plan": record.plan, "network": record.card.architecture}
    if (run / "findings.json").exists():
        kinds = grouped(record.findings, lambda each: (ORDER.index(each.severity), each.code))
        said["findings"] = [[to_json(each) for each in kinds[key][:MOST]] for key in sorted(kinds)]
        said["kinds"] = [len(kinds[key]) for key in sorted(kinds)]
    if not (run / "manifest.json").exists():
        return said
    record = _finished(run)
    matrix = grid(record)
    cells = [
        [{"row": c.row, "column": c.column, "count": c.count, "level": c.level} for c in row] for row in matrix.rows
    ]
    return said | {
        "part": record.reported,
        "scores": to_json(record.scores) | {"confusion": None},
        "facts": to_json(record.facts) | {"explained": None},
        "matrix": {"names": matrix.names, "rows": cells, "hidden": matrix.hidden},
        "errors": [_image(record, index) for index in surest_errors(record, MOST)],
        "report": (run / "report.html").exists(),
    }


@router.get("/cell")
def cell(run: Run, row: int, column: int) -> dict[str, Any]:
    """The images of one class that were taken for another, the surest first."""
    record = _finished(run)
    inside = (record.labels == row) & (record.predictions == column)
    order = [int(index) for index in worst_first(record) if inside[index]]
    return {"count": len(order), "images": [_image(record, index) for index in order[:MOST]]}


def _image(run: RunRecord, index: int) -> dict[str, Any]:
    label, answer = run.card.classes[int(run.labels[index])], run.card.classes[int(run.predictions[index])]
    said = {"index": index, "path": run.paths[index], "label": label, "answer": answer}
    return said | {"confidence": float(run.confidence[index]), "shown": index in run.thumbnails}


@router.get("/image")
def thumbnail(run: Run, index: int) -> Response:
    """The picture of a reported image that the run keeps."""
    content = _finished(run).thumbnails.get(index)
    if content is None:
        raise UsageError(f"The run keeps no picture of its image {index}.")
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return Response(content, media_type=f"image/{kind}")


@router.get("/filters")
def filters(run: Run) -> dict[str, Any]:
    """The first convolution's weights, a list of C·k·k numbers each, and how pixels are normalised for them."""
    record = _finished(run)
    kept = record.pictures.get("filters.after")
    if kept is None or kept.shape[2] != kept.shape[3] or kept.shape[2] > 11:
        raise UsageError("The run keeps no filters that can be shown here: its first layer is no small convolution.")
    said, (_, channels, size, _) = record.card.preprocess, kept.shape
    rows = kept.reshape(len(kept), -1).tolist()
    return {"filters": rows, "size": size, "channels": channels, "mean": said.mean, "std": said.std}


@router.get("/report")
def report(run: Run) -> Response:
    """The run's report, which may run its own script and nothing else."""
    return FileResponse(run / "report.html", headers={"Content-Security-Policy": REPORT})


@router.get("/events")
async def events(run: Run) -> StreamingResponse:
    """What the run's log says, then what it is told from now on, as server-sent events.

    Each message is a list of events. ``reset`` says that the log begins again: at first, and where a training that
    was killed goes on and has cut its log back.
    """
    return StreamingResponse(_followed(run / "log.jsonl"), media_type="text/event-stream")


async def _followed(log: Path) -> AsyncIterator[str]:
    place, file, beat = -1, -1, 0.0
    while True:
        try:
            now = os.stat(log)
            begins = now.st_size < place or now.st_ino != file
        except OSError:
            begins, now = False, None
        if now is not None and (begins or now.st_size > place):
            place, file = (0 if begins else place), now.st_ino
            with open(log, "rb") as handle:
                handle.seek(place)
                whole = handle.read().rpartition(b"\n")[0]
            place += len(whole) + 1 if whole else 0
            rows = _thinned([row for line in whole.splitlines() if (row := _told(line))])
            yield f"{'event: reset' if begins else 'event: more'}\ndata: {json.dumps(rows)}\n\n"
            beat = time.monotonic()
        elif time.monotonic() - beat > 10:
            yield ": still here\n\n"  # so that a tab that was closed is noticed
            beat = time.monotonic()
        await asyncio.sleep(0.4)


def _told(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.get("event") in TOLD else None


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    steps = sum(row["event"] == "step" for row in rows)
    every, kept, seen = -(-steps // POINTS) or 1, list[dict[str, Any]](), 0
    for row in rows:
        seen += row["event"] == "step"
        if row["event"] != "step" or seen % every == 0:
            kept.append(row)
    return kept


@router.get("/layers")
def layers(request: Request, run: Run) -> dict[str, Any]:
    """The explanation methods, and layers whose maps can be looked at, the last ahead."""
    from hubel.explanation.methods import METHODS
    from hubel.nn.stages import find_stages

    classifier = _classifier(request.app.state.places, run)
    preprocess = classifier.card.preprocess
    with explaining:
        stages = find_stages(classifier.model, (preprocess.channels, *preprocess.size))
    names = [name for group in reversed(stages.groups[:-1]) for name in reversed(group)]
    return {"methods": list(METHODS), "layers": names, "classes": classifier.classes}


@router.post("/explain")
async def explain(
    request: Request, run: Run, method: str = "gradcam", layer: str | None = None, label: str | None = None
) -> dict[str, Any]:
    """Explain the image that is the request's body."""
    content = await request.body()
    return await run_in_threadpool(_explained, request.app.state.places, run, content, method, layer, label)


def _explained(
    places: Places, run: Path, content: bytes, method: str, layer: str | None, label: str | None
) -> dict[str, Any]:
    from hubel.jobs.explain import explanations

    record = _finished(run) if (run / "manifest.json").exists() else None
    classifier = _classifier(places, run)
    with explaining:
        found = next(iter(explanations(classifier, record, [content], method=method, layer=layer, label=label)))
    if found.error:
        raise UsageError(f"This image can't be explained: {found.error}.")
    return found.record() | {
        "image": data_uri(encoded(picture(found.pixels), exact=True)),
        "overlay": data_uri(encoded(overlay(found.pixels, found.heatmap))),
        "alike": [
            {"label": each.label, "cosine": each.cosine, "path": each.path, "picture": data_uri(each.picture)}
            for each in found.alike
        ],
    }


def _classifier(places: Places, run: Path) -> Classifier:
    return _loaded(run, places.code, places.written(run / "model"))


@functools.lru_cache(maxsize=2)
def _loaded(run: Path, code: str | None, changed: float) -> Classifier:  # noqa: ARG001
    from hubel.jobs.answer import load_either
    from hubel.jobs.explain import inside
    from hubel.nn.foreign import load_code

    return inside(load_either(run, code=load_code(code) if code else None))


@router.get("/compare")
def compare(request: Request, a: str, b: str) -> dict[str, Any]:
    """Is one of two finished runs better on the images that both have reported on?"""
    from hubel.jobs.compare import comparing
    from hubel.report.comparison import comparison_lines

    places: Places = request.app.state.places
    found = outcome(comparing(str(places.run(a)), str(places.run(b)), None))
    return {"verdict": found.verdict, "lines": list(comparison_lines(found))}


@router.post("/label")
def correct(run: Run, path: Annotated[str, Body()], label: Annotated[str, Body()]) -> dict[str, Any]:
    """Note what an image really is, in the file beside the run that ``hubel train --relabel`` reads."""
    record, file = _finished(run), run.with_name(f"{run.name}.labels.csv")
    if path not in record.paths or label not in record.card.classes:
        raise UsageError(f"The run has no image {path!r}, or no class {label!r}: choose of what the page shows.")
    write_text(file, labels_csv({**(read_labels(file) if file.exists() else {}), path: label}))
    return {"file": str(file)}
