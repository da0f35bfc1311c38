"""After the training: measure the best model once on the reported part, gather the evidence, write the report."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hubel.dataset.augment import augment, describe, uniform
from hubel.dataset.pack import Images, Rows
from hubel.dataset.tensors import normalise, to_tensor
from hubel.evaluation.metrics import score, worst_errors
from hubel.evaluation.predict import predict
from hubel.evaluation.suspects import label_suspects, suspect_findings
from hubel.explanation.cam import grad_cam
from hubel.jobs.hardware import environment
from hubel.jobs.prepare import Dataset
from hubel.jobs.recipe import to_yaml
from hubel.jobs.training import Training, filters
from hubel.nn.saved import save_model
from hubel.records import PARTS, Event, Finding, Finished, Measured, Preprocess, Progress
from hubel.report.evidence import Evidence, Explained
from hubel.report.html import write
from hubel.text import csv_text

EXAMPLES = 6  # right and wrong predictions that are explained
CHANGED = 7  # augmented versions of each of four images


def report(
    training: Training, model: nn.Module, source: str, command: str, stopped: str | None, *, drawn: bool
) -> Iterator[Event]:
    """Measure, write scores.json, predictions.csv, the pictures and report.html."""
    run, dataset, clock, record = training.run, training.dataset, training.clock, training.record
    plan, division = training.plan, training.division
    card, classes = plan.card, dataset.catalog.classes
    rows = division.test
    images, labels = Rows(dataset.packed.images, rows), dataset.catalog.labels[rows]
    yield Progress(task="measuring", done=0, total=3)
    logits = predict(model, images, card.preprocess, device=plan.device)
    scores = score(logits, labels, classes)
    baselines = plan.baseline.on(images, labels)
    metrics = {f"{division.reported}_accuracy": scores.accuracy, f"{division.reported}_n": float(scores.n)}
    card = replace(card, metrics={**metrics, **_chosen(training)})
    save_model(run.model, model.state_dict(), card)
    run.write("scores.json", {"part": division.reported, "scores": scores, "baselines": baselines})
    yield Measured(part=division.reported, scores=scores, baselines=baselines)
    yield Progress(task="writing the report", done=1, total=3)
    probabilities = logits.softmax(1).numpy()
    paths = tuple(dataset.catalog.paths[i] for i in rows)
    run.write("predictions.csv", predictions_csv(paths, labels, probabilities, classes))
    findings = (*dataset.findings, *_suspects(training, model, dataset, rows, probabilities))
    run.write("findings.json", findings)
    right, wrong, explained_by = explained(model, images, labels, probabilities, paths, card.preprocess, plan.device)
    yield Progress(task="writing the report", done=2, total=3)
    page = write(
        run.path,
        Evidence(
            title=run.path.name,
            source=source,
            created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            reported_part=division.reported,
            card=card,
            counts={
                part: tuple(
                    np.bincount(dataset.catalog.labels[getattr(division, part)], minlength=len(classes)).tolist()
                )
                for part in PARTS
            },
            plan=plan.rows,
            recipe=to_yaml(training.recipe),
            environment=environment(plan.device),
            command=command,
            history=record.history,
            scores=scores,
            baselines=baselines,
            findings=findings,
            paths=paths,
            labels=labels,
            probabilities=probabilities,
            images=images,
            right=right,
            wrong=wrong,
            explained_by=explained_by,
            filters_before=training.filters_before,
            filters_after=filters(model),
            augmented=augmented(training, dataset),
            augmented_by=describe(plan.augmentation),
            notes=(*plan.notes, *record.notes),
            parameters=sum(p.numel() for p in model.parameters()),
            seconds=clock.seconds,
            stopped=stopped,
        ),
    )
    yield Finished(folder=str(run.path), report=str(page), seconds=clock.seconds, stopped=stopped)


def predictions_csv(
    paths: tuple[str, ...],
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
) -> str:
    """One line per image: file, label, prediction, confidence."""
    guess = probabilities.argmax(1)
    lines = [
        [path, classes[label], classes[g], f"{p[g]:.6f}"]
        for path, label, g, p in zip(paths, labels.tolist(), guess.tolist(), probabilities, strict=True)
    ]
    return csv_text([["file_name", "label", "prediction", "confidence"], *lines])


def explained(
    model: nn.Module,
    images: Images,
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    paths: tuple[str, ...],
    preprocess: Preprocess,
    device: torch.device,
) -> tuple[tuple[Explained, ...], tuple[Explained, ...], str]:
    """Grad-CAM of right and of wrong predictions, one a class where possible, and which layer was looked at."""
    guess = probabilities.argmax(1)
    right = _one_a_class(np.flatnonzero(guess == labels), labels)
    wrong = _one_a_class(worst_errors(probabilities, labels, limit=200), labels)
    chosen = np.concatenate([right, wrong]).astype(np.int64)
    if len(chosen) == 0:
        return (), (), ""
    inputs = normalise(to_tensor(images[chosen]), preprocess).to(device)
    try:
        cam = grad_cam(model, inputs)
    except ValueError as error:  # a network without a map, say
        return (), (), str(error)
    heat = cam.heatmaps.cpu().numpy()
    pictures = tuple(
        Explained(
            image=images[i],
            heat=heat[k],
            path=paths[i],
            label=int(labels[i]),
            prediction=int(guess[i]),
            confidence=float(probabilities[i, guess[i]]),
            note="nothing speaks for this class at this layer (the map is negative everywhere)" if cam.empty[k] else "",
        )
        for k, i in enumerate(chosen)
    )
    return pictures[: len(right)], pictures[len(right) :], f"{cam.layer}: {cam.reason}"


def augmented(training: Training, dataset: Dataset) -> npt.NDArray[np.uint8]:
    """Show what the augmentation does to four training images: (4, 1 + CHANGED, H, W, C) uint8, the original first."""
    rows = training.division.train
    chosen = rows[np.linspace(0, len(rows) - 1, 4).astype(int)]
    pixels = to_tensor(dataset.packed.images[chosen])
    ids = torch.from_numpy(chosen)
    side = pixels.shape[-1]
    versions = [pixels.float() / 255]
    for epoch in range(CHANGED):
        draws = uniform(training.plan.recipe.seed, epoch, ids)
        versions.append(augment(pixels, training.plan.augmentation, draws, side))
    grid = torch.stack(versions, 1).mul(255).round().clamp(0, 255).byte()
    result: npt.NDArray[np.uint8] = grid.permute(0, 1, 3, 4, 2).contiguous().numpy()
    return result


def _one_a_class(rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Take up to EXAMPLES rows, the first of each class before the second of any."""
    seen: dict[int, int] = {}
    order: list[tuple[int, int, int]] = []
    for row in rows.tolist():
        label = int(labels[row])
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], len(order), row))
    return np.array([row for *_, row in sorted(order)[:EXAMPLES]], dtype=np.int64)


def _chosen(training: Training) -> dict[str, float]:
    best = training.record.best_scores
    assert best is not None
    return {"val_accuracy": best.accuracy, "val_n": float(best.n), "epoch": float(training.record.best_epoch)}


def _suspects(
    training: Training,
    model: nn.Module,
    dataset: Dataset,
    reported: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
) -> tuple[Finding, ...]:
    """Label suspects among the images that the network was not trained on."""
    rows = training.division.val
    logits: Tensor = predict(
        model, Rows(dataset.packed.images, rows), training.plan.card.preprocess, device=training.plan.device
    )
    held = np.concatenate([rows, reported])
    suspects = label_suspects(np.concatenate([logits.softmax(1).numpy(), probabilities]), dataset.catalog.labels[held])
    return suspect_findings(suspects, [dataset.catalog.paths[i] for i in held], dataset.catalog.classes, len(held))
