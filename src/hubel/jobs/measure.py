"""After the training: measure the network once on the reported part, and keep what reports are drawn from."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hubel.dataset.augment import augment, describe, uniform
from hubel.dataset.pack import Facts as FileFacts
from hubel.dataset.pack import Images, Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise, to_tensor
from hubel.evaluation.calibration import confidences, fit_temperature, levels, with_ece
from hubel.evaluation.metrics import score, worst_errors
from hubel.evaluation.predict import predict
from hubel.evaluation.slices import slice_findings
from hubel.evaluation.suspects import label_suspects, suspect_findings
from hubel.events import Event, Measured, Progress
from hubel.evidence import (
    IMAGES,
    LOGITS,
    OF_IMAGES,
    PICTURES,
    TRAINED,
    TRAINED_THUMBNAILS,
    Explained,
    Facts,
    Floats,
    Integers,
    Pixels,
    RunRecord,
    keep_arrays,
    keep_facts,
    keep_thumbnails,
    softmax,
)
from hubel.explanation.cam import grad_cam
from hubel.explanation.features import last_features
from hubel.jobs.judging import chosen_by
from hubel.jobs.plan import Plan
from hubel.jobs.planning import FLOAT32
from hubel.jobs.prepare import Dataset
from hubel.jobs.training import Training, filters
from hubel.nn.saved import save_model
from hubel.records import PARTS, Finding
from hubel.report.page import shown_images
from hubel.report.pictures import LARGE, TILE, picture, shrunk, thumbnail
from hubel.text import csv_text

EXAMPLES = 6  # right and wrong predictions that are explained
SEARCHED, LOOKING, SEARCHED_SIDE = 1_000, 3.0, 128  # training images to compare with, seconds for them, pixels kept
CHANGED = 7  # augmented versions of each of four images
CHUNK = 256  # images whose brightness is measured together
ROOM = 8_000_000  # bytes of thumbnails that are kept


def measure(training: Training, model: nn.Module, source: str, command: str, stopped: str | None) -> Iterator[Event]:
    """Write the model's figures, scores.json, predictions.csv, findings.json and the folder ``evidence``.

    Args:
        model: with the weights that are kept, in eval mode.
        source, command: the data and the command line, as they were given.
        stopped: None, or why the training ended early (one sentence).
    """
    run, dataset, division, plan, record = (
        training.run,
        training.dataset,
        training.division,
        training.plan,
        training.record,
    )
    best = record.best_scores
    assert best is not None
    classes, part = dataset.catalog.classes, division.reported
    images, labels = Rows(dataset.packed.images, division.test), dataset.catalog.labels[division.test]
    yield Progress(task="measuring", done=0, total=3)
    logits, baselines = _logits(model, images, plan), plan.baseline.on(images, labels)
    known = (_logits(model, Rows(dataset.packed.images, division.val), plan), dataset.catalog.labels[division.val])
    temperature, _ = fit_temperature(*known)
    scores = with_ece(score(logits / temperature, labels, classes), logits / temperature, labels)
    chosen = {**chosen_by(best), "epoch": float(record.best_epoch)}
    metrics = {f"{part}_accuracy": scores.accuracy, f"{part}_n": float(scores.n), **chosen}
    counted = levels(*confidences(*known, temperature))
    card = replace(plan.card, metrics=metrics, temperature=temperature, levels=counted)
    save_model(run.model, model.state_dict(), card)
    run.write("scores.json", {"part": part, "scores": scores, "baselines": baselines})
    yield Measured(part=part, scores=scores, baselines=baselines)
    yield Progress(task="keeping the evidence", done=1, total=3)
    answers: dict[str, npt.NDArray[Any]] = {
        "reported.logits": logits,
        "reported.labels": labels,
        "validation.logits": known[0],
        "validation.labels": known[1],
        "temperature": np.array([temperature]),
    }
    keep_arrays(run.path, LOGITS, answers)
    keep_arrays(run.path, IMAGES, {"facts": _facts(images, dataset.packed.facts[division.test])})
    kept = RunRecord(run.path)
    run.write("predictions.csv", predictions_csv(kept.paths, labels, kept.probabilities, classes))
    right = kept.predictions == labels
    told = (*_suspects(dataset, division, answers), *slice_findings(kept.images, labels, right, kept.paths))
    run.write("findings.json", (*dataset.findings, *record.findings, *told))
    explained, explained_by, pictures = _explanations(model, images, labels, kept.probabilities, plan)
    yield Progress(task="keeping the evidence", done=2, total=3)
    weights = {"filters.before": training.filters_before, "filters.after": filters(model)}
    pictures |= {name: bank for name, bank in weights.items() if bank is not None}
    keep_arrays(run.path, PICTURES, {**pictures, "augmented": _augmented(dataset.packed.images, division, plan)})
    facts = Facts(
        title=run.path.name,
        folder=_as_typed(run.path),
        source=source,
        command=command,
        created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=training.clock.seconds,
        stopped=stopped,
        notes=(*plan.notes, *record.notes),
        parameters=sum(p.numel() for p in model.parameters()),
        counts={name: _counts(dataset.catalog.labels[getattr(division, name)], len(classes)) for name in PARTS},
        augmented_by=describe(plan.augmentation),
        explained=explained,
        explained_by=explained_by,
    )
    keep_facts(run.path, facts)
    keep_thumbnails(run.path, _thumbnails(RunRecord(run.path), images))
    _keep_trained(training, model)


def _keep_trained(training: Training, model: nn.Module) -> None:
    """Keep the last features of some training images, and their pictures: as many as a few seconds suffice for."""
    dataset, plan, rows = training.dataset, training.plan, training.division.train
    seconds = min(LOOKING, max(training.clock.left, 0.0) / 2)
    count = min(SEARCHED, int(seconds * plan.speed["forward"] / FLOAT32), len(rows))
    chosen = np.sort(np.random.default_rng(plan.recipe.seed).permutation(len(rows))[: max(count, 0)])
    if count < 1:
        return
    features, small = list[npt.NDArray[np.float16]](), list[bytes]()
    try:
        for start in range(0, count, CHUNK):
            pixels = dataset.packed.images[rows[chosen[start : start + CHUNK]]]
            images = normalise(to_tensor(pixels), plan.card.preprocess).to(plan.device)
            features.append(last_features(model, images).to(torch.float16).numpy())
            small += [thumbnail(image) for image in _small(pixels, SEARCHED_SIDE)]
    except ValueError:  # no layer gives the logits
        return
    labels = dataset.catalog.labels[rows[chosen]]
    kept: dict[str, npt.NDArray[Any]] = {"features": np.concatenate(features), "rows": chosen, "labels": labels}
    keep_arrays(training.run.path, TRAINED, kept)
    keep_thumbnails(training.run.path, dict(enumerate(small)), TRAINED_THUMBNAILS)


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
    suspects = label_suspects(softmax(logits, float(answers["temperature"][0])), dataset.catalog.labels[held])
    of = f"{len(held):,} validation and reported images"
    return suspect_findings(suspects, [dataset.catalog.paths[i] for i in held], dataset.catalog.classes, of)


def _facts(images: Images, facts: FileFacts) -> Pixels:
    """What is kept of the reported images (N, H, W, C) uint8, by what the decoder learned of their files."""
    kept, turned = np.zeros(len(images), OF_IMAGES), facts["orientation"] > 4
    kept["width"] = np.where(turned, facts["height"], facts["width"])
    kept["height"] = np.where(turned, facts["width"], facts["height"])
    kept["format"] = facts["format"]
    for start in range(0, len(images), CHUNK):
        kept["brightness"][start : start + CHUNK] = images[start : start + CHUNK].mean((1, 2, 3)) / 255
    kept["digest"] = [bytes.fromhex(digest.decode())[:16] for digest in facts["sha256"]]
    return kept.view(np.uint8).reshape(len(images), -1)


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
    heat = cam.heatmaps.numpy()
    explained = tuple(Explained(index=int(i), note=note) for i, note in zip(chosen, cam.notes, strict=True))
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
