"""After the training: measure the network once on the reported part, and keep what reports are drawn from."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hubel.dataset.augment import augment, describe, uniform
from hubel.dataset.pack import Images, Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise, to_tensor
from hubel.evaluation.metrics import score, worst_errors
from hubel.evaluation.predict import predict
from hubel.evaluation.suspects import label_suspects, suspect_findings
from hubel.evidence import (
    LOGITS,
    PICTURES,
    Explained,
    Facts,
    Floats,
    Integers,
    Pixels,
    RunRecord,
    keep_arrays,
    keep_facts,
    keep_thumbnails,
)
from hubel.explanation.cam import grad_cam
from hubel.explanation.features import first_filters
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset
from hubel.jobs.plan import Plan
from hubel.nn.model_folder import save_model
from hubel.records import PARTS, Event, Finding, Measured, Progress, Scores
from hubel.report.page import shown_images
from hubel.report.pictures import LARGE, TILE, picture, shrunk, thumbnail
from hubel.runs import RunFolder, csv_text

EXAMPLES = 6  # right and wrong predictions that are explained
CHANGED = 7  # augmented versions of each of four images
ROOM = 8_000_000  # bytes of thumbnails that are kept
EMPTY = "nothing speaks for this class at this layer (the map is negative everywhere)"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training knows beside the network.

    Attributes:
        source, command: the data and the command line, as they were given.
        best: validation scores of the weights that were kept, which are those of `epoch`.
        notes: sentences that belong into the report. stopped: None, or why it ended early (one sentence).
        filters_before: the first convolution's weights before training, (F, C, k, k) float32; None without one.
    """

    source: str
    command: str
    best: Scores
    epoch: int
    notes: Sequence[str]
    stopped: str | None
    filters_before: Floats | None


def measure(
    run: RunFolder, model: nn.Module, dataset: Dataset, division: Split, plan: Plan, trained: Trained, clock: Clock
) -> Iterator[Event]:
    """Write the model's figures, scores.json, predictions.csv, findings.json and the folder ``evidence``.

    Args:
        model: with the weights that are kept, in eval mode.
    """
    classes, part = dataset.catalog.classes, division.reported
    images, labels = Rows(dataset.packed.images, division.test), dataset.catalog.labels[division.test]
    yield Progress(task="measuring", done=0, total=3)
    logits = _logits(model, images, plan)
    scores, baselines = score(logits, labels, classes), plan.fitted.on(images, labels)
    chosen = {"val_accuracy": trained.best.accuracy, "val_n": float(trained.best.n), "epoch": float(trained.epoch)}
    metrics = {f"{part}_accuracy": scores.accuracy, f"{part}_n": float(scores.n), **chosen}
    save_model(run.model, model.state_dict(), replace(plan.card, metrics=metrics))
    run.write("scores.json", {"part": part, "scores": scores, "baselines": baselines})
    yield Measured(part=part, scores=scores, baselines=baselines)
    yield Progress(task="keeping the evidence", done=1, total=3)
    answers: dict[str, npt.NDArray[Any]] = {
        "reported.logits": logits,
        "reported.labels": labels,
        "validation.logits": _logits(model, Rows(dataset.packed.images, division.val), plan),
        "validation.labels": dataset.catalog.labels[division.val],
    }
    keep_arrays(run.path, LOGITS, answers)
    record = RunRecord(run.path)
    run.write("predictions.csv", predictions_csv(record.paths, labels, record.probabilities, classes))
    run.write("findings.json", (*dataset.findings, *_suspects(dataset, division, answers)))
    explained, explained_by, pictures = _explanations(model, images, labels, record.probabilities, plan)
    yield Progress(task="keeping the evidence", done=2, total=3)
    filters = {"filters.before": trained.filters_before, "filters.after": _filters(model)}
    pictures |= {name: weights for name, weights in filters.items() if weights is not None}
    keep_arrays(run.path, PICTURES, {**pictures, "augmented": _augmented(dataset.packed.images, division, plan)})
    facts = Facts(
        title=run.path.name,
        folder=_as_typed(run.path),
        source=trained.source,
        command=trained.command,
        created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=clock.seconds,
        stopped=trained.stopped,
        notes=(*plan.notes, *trained.notes),
        parameters=sum(p.numel() for p in model.parameters()),
        counts={name: _counts(dataset.catalog.labels[getattr(division, name)], len(classes)) for name in PARTS},
        augmented_by=describe(plan.augmentation),
        explained=explained,
        explained_by=explained_by,
    )
    keep_facts(run.path, facts)
    keep_thumbnails(run.path, _thumbnails(RunRecord(run.path), images))


def _logits(model: nn.Module, images: Images, plan: Plan) -> Floats:
    found: Floats = predict(model, images, plan.card.preprocess, device=plan.device).float().cpu().numpy()
    return found


def predictions_csv(paths: Sequence[str], labels: Integers, probabilities: Floats, classes: Sequence[str]) -> str:
    """One line per image: file, label, prediction, confidence."""
    guess = probabilities.argmax(1)
    lines = [
        [path, classes[label], classes[g], f"{p[g]:.6f}"]
        for path, label, g, p in zip(paths, labels.tolist(), guess.tolist(), probabilities, strict=True)
    ]
    return csv_text([["file_name", "label", "prediction", "confidence"], *lines])


def _suspects(dataset: Dataset, division: Split, answers: dict[str, npt.NDArray[Any]]) -> tuple[Finding, ...]:
    """Label suspects among the images that the network was not trained on."""
    held = np.concatenate([division.val, division.test])
    logits = np.concatenate([answers["validation.logits"], answers["reported.logits"]])
    suspects = label_suspects(torch.from_numpy(logits).softmax(1).numpy(), dataset.catalog.labels[held])
    return suspect_findings(suspects, [dataset.catalog.paths[i] for i in held], dataset.catalog.classes, len(held))


def _explanations(
    model: nn.Module, images: Images, labels: Integers, probabilities: Floats, plan: Plan
) -> tuple[tuple[Explained, ...], str, dict[str, npt.NDArray[Any]]]:
    """Grad-CAM of right and of wrong predictions, one a class where possible; which layer was looked at; pictures."""
    right = _one_a_class(np.flatnonzero(probabilities.argmax(1) == labels), labels)
    wrong = _one_a_class(worst_errors(probabilities, labels, limit=200), labels)
    chosen = np.concatenate([right, wrong]).astype(np.int64)
    if len(chosen) == 0:
        return (), "", {}
    try:
        cam = grad_cam(model, normalise(to_tensor(images[chosen]), plan.card.preprocess).to(plan.device))
    except ValueError as error:  # a network without a map, say
        return (), str(error), {}
    heat = np.nan_to_num(cam.heatmaps.cpu().numpy()).clip(0, 1)
    explained = tuple(
        Explained(index=int(i), note=EMPTY if empty else "") for i, empty in zip(chosen, cam.empty, strict=True)
    )
    warmth = _small(np.rint(255 * heat).astype(np.uint8)[..., None], LARGE)[..., 0]
    pictures = {"explained.images": _small(images[chosen], LARGE), "explained.heat": warmth}
    return explained, f"{cam.layer}: {cam.reason}", pictures


def _one_a_class(rows: Integers, labels: Integers) -> Integers:
    """Take up to EXAMPLES rows, the first of each class before the second of any."""
    seen: dict[int, int] = {}
    order: list[tuple[int, int, int]] = []
    for row in rows.tolist():
        label = int(labels[row])
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], len(order), row))
    return np.array([row for *_, row in sorted(order)[:EXAMPLES]], dtype=np.int64)


def _augmented(images: Pixels, division: Split, plan: Plan) -> Pixels:
    """Show what the augmentation does to four training images: (4, 1 + CHANGED, H, W, C) uint8, the original first."""
    chosen = division.train[np.linspace(0, len(division.train) - 1, 4).astype(int)]
    pixels = to_tensor(images[chosen])
    draws = [uniform(plan.recipe.seed, epoch, torch.from_numpy(chosen)) for epoch in range(CHANGED)]
    versions = [pixels.float() / 255, *(augment(pixels, plan.augmentation, d, pixels.shape[-1]) for d in draws)]
    grid = torch.stack(versions, 1).mul(255).round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2)
    return np.stack([_small(row, TILE) for row in grid.contiguous().numpy()])


def _small(images: Pixels, side: int) -> Pixels:
    """Shrink images, (N, H, W, C) uint8, so that their longer side has at most `side` pixels."""
    small = [np.asarray(shrunk(picture(image), side)) for image in images]
    return np.stack(small).reshape(len(images), *small[0].shape[:2], images.shape[-1])


def _filters(model: nn.Module) -> Floats | None:
    found = first_filters(model)
    return None if found is None else found[1].numpy()


def _counts(labels: Integers, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _thumbnails(record: RunRecord, images: Images) -> dict[int, bytes]:
    """Encode the images that a report may show, the most telling ones first, as long as there is room."""
    kept: dict[int, bytes] = {}
    room = ROOM
    for index in shown_images(record):
        if room > 0:
            kept[index] = thumbnail(images[index])
            room -= len(kept[index])
    return kept


def _as_typed(folder: Path) -> str:
    """The run folder as a reader would type it; a report that is passed on shall not tell where its home is."""
    if not folder.is_absolute():
        return folder.as_posix()
    here = Path.cwd()
    return folder.relative_to(here).as_posix() if folder.is_relative_to(here) and folder != here else folder.name
