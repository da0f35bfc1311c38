"""What a peer is given by `peers.py`: the images of each part, a number of classes, and the moment to have ended."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

NATIVE, PHOTO = 64, 128  # sides up to which images stay as they are, and that larger ones are brought to
LEAVING = 3.0  # seconds kept for ending the process
SAFETY = 0.94  # share of the time that is planned
BEFORE, TIMED = 3, 2.0  # steps that don't count, and seconds of steps that do, when a peer is timed
Rows = list[tuple[str, int]]  # path and class


@dataclass
class Task:
    """What a peer is given: the images of each part, and the moment at which the process must have ended."""

    root: Path
    parts: dict[str, Rows]
    classes: list[str]
    side: int
    deadline: float
    seed: int
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.deadline - LEAVING - time.monotonic()

    def plan(self, step: float, batch: int) -> int:
        """From seconds a step: how many epochs fit; where none does, training images are left out until one fits.

        A validation image costs a third of a training image, and one of the reported part as much.
        """
        train, val, test = (len(self.parts[part]) for part in ("train", "val", "test"))
        each = step / batch
        left = self.left * SAFETY - test * each / 3
        epochs = left / (each * (train + val / 3))
        if epochs < 1:
            random.Random(self.seed).shuffle(self.parts["train"])
            self.parts["train"] = self.parts["train"][: max(batch, int(epochs * train))]
        self.measured |= {"epochs planned": max(1, int(epochs)), "trained on": len(self.parts["train"])}
        return max(1, int(epochs))


def task(given: argparse.Namespace) -> Task:
    """Read the division and the typical side of the images."""
    division = json.loads(given.split.read_text())
    names = sorted({Path(path).parent.name for part in ("train", "val", "test") for path in division[part]})
    parts = {
        part: [(path, names.index(Path(path).parent.name)) for path in division[part]]
        for part in ("train", "val", "test")
    }
    sides = [min(Image.open(given.folder / path).size) for path, _ in parts["train"][:: len(parts["train"]) // 50 + 1]]
    side = int(statistics.median(sides))
    deadline = given.began + 60 * given.minutes
    return Task(given.folder, parts, names, side if side <= NATIVE else min(side, PHOTO), deadline, given.seed)


class Images(torch.utils.data.Dataset[Any]):
    """Paths and classes as a data set of RGB images; `transform` may be set later, as timm does."""

    def __init__(self, root: Path, rows: Rows, transform: Callable[[Any], Any] | None = None) -> None:
        self.root, self.rows, self.transform = root, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        path, label = self.rows[index]
        image = Image.open(self.root / path).convert("RGB")
        return image if self.transform is None else self.transform(image), label


def seconds_a_step(loader: Iterable[Any], step: Callable[[Any, Any], None]) -> float:
    """Time some steps, waiting for images included."""
    number, began = 0, 0.0
    for number, (images, labels) in enumerate(loader, 1):
        step(images, labels)
        if number <= BEFORE:
            began = time.perf_counter()
        elif time.perf_counter() - began > TIMED:
            break
    return (time.perf_counter() - began) / max(number - BEFORE, 1)
