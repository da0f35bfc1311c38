"""A made-up but realistic run folder: shapes that are drawn here, answers that err as networks err."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.events import EpochRow
from hubel.evidence import (
    IMAGES,
    LOGITS,
    OF_IMAGES,
    PICTURES,
    Explained,
    Facts,
    RunRecord,
    keep_arrays,
    keep_facts,
    keep_thumbnails,
)
from hubel.records import Baselines, ClassScore, Finding, ModelCard, Preprocess, Scores
from hubel.report.page import shown_images
from hubel.report.pictures import thumbnail
from hubel.runs import write_json, write_text
from hubel.text import csv_text

Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

HOSTILE = (
    "<script>alert(1)</script>",
    '"onmouseover="alert(2)',
    "=cmd|' /C calc'!A0",
    "a very long name that goes on and on and on until nobody remembers how it began, " * 3,
    "\u202eדגל אדום",
    "😀👩‍🔬",
    "${alert(3)} {{ 7*7 }} {% raw %}",
    "]]></svg><img src=x onerror=alert(4)>",
    "line\nbreak\x00",
    "datum.value + 1",
)


def classes(k: int) -> tuple[str, ...]:
    """Names of k classes."""
    known = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return known[:k] if k <= len(known) else tuple(f"species {i:03d}" for i in range(k))


def images(labels: Integers, *, size: int, channels: int, rng: np.random.Generator) -> Pixels:
    """Discs whose place and tone follow the label: (N, size, size, channels) uint8."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = labels[:, None, None] * 2.4
    disc = (x - 0.5 - 0.25 * np.cos(angle)) ** 2 + (y - 0.5 - 0.25 * np.sin(angle)) ** 2 < 0.05
    tone = 90 + 150 * disc[..., None] * rng.uniform(0.4, 1.0, (len(labels), 1, 1, channels))
    noisy = tone + rng.normal(0, 12, (len(labels), size, size, channels))
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def probabilities(labels: Integers, k: int, *, error: float, rng: np.random.Generator) -> Floats:
    """Softmax rows; about a share of `error` is wrong, mostly towards the neighbouring class."""
    logits = rng.normal(0, 1, (len(labels), k))
    wrong = rng.random(len(labels)) < error * (0.4 + 1.2 * (labels % 3 == 0))
    shift = np.where(rng.random(len(labels)) < 0.6, 1, rng.integers(1, k, len(labels)))
    aim = np.where(wrong, (labels + shift) % k, labels)
    logits[np.arange(len(labels)), aim] += rng.uniform(4, 9, len(labels)) + (0 if k < 50 else 3) + (0 if error else 9)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


def scores(labels: Integers, likely: Floats, names: tuple[str, ...]) -> Scores:
    """Count what is right: accuracy, Wilson interval, per-class scores, confusion."""
    k, n = len(names), len(labels)
    said = np.nan_to_num(likely).argmax(1)
    matrix = np.zeros((k, k), np.int64)
    np.add.at(matrix, (labels, said), 1)
    right = np.diag(matrix)
    recall, precision = right / np.maximum(matrix.sum(1), 1), right / np.maximum(matrix.sum(0), 1)
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-9)
    accuracy = float(right.sum() / n)
    return Scores(
        n=n,
        loss=float(-np.log(np.maximum(likely[np.arange(n), labels], 1e-9)).mean()),
        accuracy=accuracy,
        interval=wilson(accuracy, n),
        top5=0.987 if k > 10 else None,
        balanced_accuracy=float(recall[matrix.sum(1) > 0].mean()),
        per_class=tuple(
            ClassScore(name=names[i], precision=float(precision[i]), recall=float(recall[i]), f1=float(f1[i]),
                       support=int(matrix[i].sum()))
            for i in range(k)
        ),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
    )  # fmt: skip


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval."""
    z = 1.959964
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def history(epochs: int, names: tuple[str, ...], *, final: float, diverged: bool = False) -> tuple[EpochRow, ...]:
    """Curves that rise towards `final`; when `diverged`, the second half is NaN."""
    rows = []
    best = 0.0
    for e in range(1, epochs + 1):
        done = 1 - math.exp(-4 * e / epochs)
        val = final * done + 0.004 * math.sin(5 * e)
        nan = diverged and e > epochs // 2
        rows.append(
            EpochRow(
                epoch=e, epochs=epochs, step=e * 430, lr=0.05 * (1 + math.cos(math.pi * e / epochs)) / 2,
                train_loss=math.nan if nan else 2.3 * (1 - done) + 0.12, val_loss=math.nan if nan else 2.3 * (1 - val),
                train_accuracy=0.1 if nan else min(1.0, done * (final + 0.03)), val_accuracy=0.1 if nan else val,
                worst_class=names[e % len(names)], worst_recall=0.7 * done, recalls=tuple(val for _ in names),
                images_per_second=5200.0, seconds=9.0 * e, seconds_left=9.0 * (epochs - e), best=not nan and val > best,
            )
        )  # fmt: skip
        best = max(best, val)
    return tuple(rows)


def heat(side: int, count: int) -> Pixels:
    """Heat maps (count, side, side), a soft spot in the middle."""
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    spots = np.exp(-8 * ((x - 0.02 * np.arange(count)[:, None, None]) ** 2 + y**2))
    return np.asarray(np.rint(255 * spots), dtype=np.uint8)


def findings(paths: tuple[str, ...]) -> tuple[Finding, ...]:
    """One of each severity, with few and with many paths."""
    many = tuple(paths[i % len(paths)] for i in range(430))
    return (
        Finding(code="small", severity="note", message="Images are 28 pixels wide; large networks gain nothing."),
        Finding(code="label_conflict", severity="warning", paths=many[:6], exclude=many[:3],
                message="3 images occur twice under different labels; one of each must be wrong: look at them.",
                evidence={"pairs": 3, "share": 0.000123456}),
        Finding(code="unreadable", severity="error", paths=many, exclude=many, left_out=True,
                message="430 files can't be read (truncated); they are left out: replace or delete them."),
    )  # fmt: skip


PLAN = (
    ("network", "resnet8", "28 pixels need few stages; it fits the time"),
    ("image size", "28 × 28, grey", "the images' own size; none has colour"),
    ("rate", "0.05, falling as a cosine", "found by a sweep of 100 steps"),
    ("epochs", "20", "10 minutes at 5,200 images a second"),
    ("augmentation", "small: shifts by 2 pixels", "small images of centred objects; mirroring is left out"),
)
ENVIRONMENT: dict[str, Any] = {"hubel": "0.1.0", "torch": "2.15.0", "cpu": "2 cores", "system": "Linux 6.1", "seed": 0}
RECIPE = "data:\n  size: 28\n  channels: 1\nmodel:\n  name: resnet8\ntrain:\n  epochs: 20\n  lr: 0.05\n"


def run(
    folder: Path,
    *,
    n: int = 600,
    names: tuple[str, ...] | None = None,
    k: int = 10,
    size: int = 28,
    channels: int = 1,
    epochs: int = 20,
    error: float = 0.12,
    paths: tuple[str, ...] | None = None,
    **changes: Any,
) -> RunRecord:
    """Write a whole run folder and return its record; `changes` replace what is written by default."""
    rng = np.random.default_rng(7)
    names = names or classes(k)
    labels = np.sort(rng.integers(0, len(names), n))
    pixels = images(labels, size=size, channels=channels, rng=rng)
    paths = paths or tuple(f"test/{names[c]}/{i:05d}.png" for i, c in enumerate(labels))
    likely = changes.pop("probabilities", None)
    likely = probabilities(labels, len(names), error=error, rng=rng) if likely is None else likely
    measured = changes.pop("scores", None) or scores(labels, likely, names)
    with np.errstate(divide="ignore"):
        logits = np.log(likely)
    said = np.nan_to_num(likely).argmax(1)
    right, wrong = np.flatnonzero(said == labels)[::7][:6], np.flatnonzero(said != labels)[::3][:6]
    chosen = np.concatenate([right, wrong]) if changes.pop("explain", True) else np.zeros(0, np.int64)
    weights = rng.normal(0, 0.2, (16, pixels.shape[3], 3, 3)).astype(np.float32)
    shown = pixels[:4]
    card = ModelCard(architecture="resnet8", arguments={}, classes=names, preprocess=Preprocess(size=(size, size)))
    pictures = {
        "filters.before": weights,
        "filters.after": np.sort(weights, axis=3),
        "augmented": np.stack([shown, *(np.roll(shown, s, axis=2) for s in (-3, -2, -1, 1, 2, 3))], axis=1),
        **({"explained.images": pixels[chosen], "explained.heat": heat(size, len(chosen))} if len(chosen) else {}),
    }
    facts = {
        "title": "fashion-resnet8",
        "folder": "runs/fashion-resnet8",
        "source": "fashion-mnist",
        "command": "hubel train fashion-mnist --minutes 10 --seed 0",
        "created": "2031-05-06T12:34:56",
        "seconds": 583.2,
        "stopped": None,
        "notes": ("Confidence is not calibrated.", "Measured on images like the training images; others may do worse."),
        "parameters": 78_042,
        "counts": {
            part: tuple(int(share * n / len(names)) for _ in names)
            for part, share in (("train", 5.4), ("val", 0.6), ("test", 1))
        },
        "augmented_by": "Shifts by up to 3 pixels.",
        "explained": tuple(
            Explained(index=int(i), note="the map is negative everywhere" if place == 1 else "")
            for place, i in enumerate(chosen)
        ),
        "explained_by": "Layer: stages.2 (the last one that still has a map, 7 × 7).",
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", {"card": card, "rows": changes.pop("plan", PLAN)})
    write_text(folder / "recipe.yaml", changes.pop("recipe", RECIPE))
    write_json(folder / "env.json", changes.pop("environment", ENVIRONMENT))
    baselines = changes.pop("baselines", Baselines(majority=1 / len(names), logistic=0.72, logistic_n=10_000))
    part = changes.pop("reported", "test")
    write_json(folder / "scores.json", {"part": part, "scores": measured, "baselines": baselines})
    write_json(folder / "split.json", {"train": [], "val": paths[:2], "test": paths})
    write_json(folder / "findings.json", changes.pop("findings", findings(paths)))
    if rows := changes.pop("history", history(epochs, names, final=measured.accuracy)):
        write_text(folder / "results.csv", results_csv(rows, names))
    answers = {"reported.logits": logits, "reported.labels": labels}
    keep_arrays(folder, LOGITS, {**answers, "validation.logits": logits[:2], "validation.labels": labels[:2]})
    if changes.pop("known", True):
        keep_arrays(folder, IMAGES, {"facts": known(pixels).view(np.uint8).reshape(n, -1)})
    keep_arrays(folder, PICTURES, pictures if changes.pop("pictures", True) else {})
    keep_facts(folder, Facts(**(facts | changes)))
    keep_thumbnails(folder, {i: thumbnail(pixels[i]) for i in shown_images(RunRecord(folder))})
    return RunRecord(folder)


def known(pixels: Pixels) -> npt.NDArray[np.void]:
    """What is kept of the images beside their answers: sizes differ, every third one is a PNG file."""
    rows = np.zeros(len(pixels), OF_IMAGES)
    rows["width"], rows["height"] = 100 + np.arange(len(pixels)) % 90, 140
    rows["brightness"] = pixels.mean((1, 2, 3)) / 255
    rows["format"] = np.where(np.arange(len(pixels)) % 3, b"JPEG", b"PNG")
    rows["digest"] = [i.to_bytes(16) for i in range(len(pixels))]
    return rows


def results_csv(rows: tuple[EpochRow, ...], names: tuple[str, ...]) -> str:
    """The curves as a training writes them."""
    columns = [name for name in EpochRow.__dataclass_fields__ if name != "recalls"]
    cells = [[getattr(row, name) for name in columns] + list(row.recalls) for row in rows]
    return csv_text([columns + [f"recall {name}" for name in names[: len(rows[0].recalls)]], *cells])
