"""What a peer is given by `peers.py`: the images of each part, a number of classes, and the moment to have ended."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

NATIVE, PHOTO = 64, 128  # sides up to which images stay as they are, and that larger ones are brought to
LEAVING = 3.0  # seconds kept for ending the process
SAFETY = 0.92  # share of the time that is planned
WARM, TIMED = 6, 0.05  # steps that do not count (batches wait for them), and share of the minutes to time steps for
Rows = list[tuple[str, int]]  # path and class


@dataclass
class Task:
    """What a peer is given: the images of each part, and the moment at which the process must have ended."""

    root: Path
    parts: dict[str, Rows]
    classes: list[str]
    side: int
    minutes: float
    deadline: float
    seed: int
    each: float = 0.0  # seconds that a training image takes
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.deadline - LEAVING - time.monotonic()

    @property
    def reserve(self) -> float:
        """Seconds for validating and measuring, at half of what an image costs in training."""
        return self.each * (len(self.parts["val"]) + len(self.parts["test"])) / 2

    def plan(self, epoch: float) -> int:
        """From the seconds of an epoch: how many fit; where none does, training images are left out until one fits."""
        train, test = len(self.parts["train"]), len(self.parts["test"])
        self.each = epoch / train
        epochs = (self.left * SAFETY - self.each * test / 3) / epoch
        if epochs < 1:
            random.Random(self.seed).shuffle(self.parts["train"])
            self.parts["train"] = self.parts["train"][: max(128, int(epochs * train))]
        self.measured |= {"epochs planned": max(1, int(epochs)), "trained on": len(self.parts["train"])}
        return max(1, int(epochs))


@dataclass
class Pace:
    """Times a few steps: `took` is called after each, and says when it is enough.

    Attributes:
        steps: seconds of each step but an epoch's first. gaps: from an epoch's last step to the next one's first.
    """

    minutes: float
    steps: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    number: int = 0
    began: float = 0.0
    last: float = 0.0

    def took(self, *, first: bool) -> bool:
        """Note the end of a training step; `first` of its epoch or not. Returns whether enough were timed."""
        now = time.perf_counter()
        self.number += 1
        if self.number <= WARM:
            self.began = now
        else:
            (self.gaps if first else self.steps).append(now - self.last)
        self.last = now
        return len(self.steps) + len(self.gaps) > WARM and now - self.began > TIMED * 60 * self.minutes

    def epoch(self, steps: int, between: float) -> float:
        """Seconds of an epoch of so many steps; what is between two epochs costs `between` steps, if it wasn't seen."""
        each = statistics.mean(self.steps or self.gaps)
        return each * (steps - 1) + (statistics.mean(self.gaps) if self.gaps else each * (between + 1))


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
    return Task(
        given.folder, parts, names, side if side <= NATIVE else min(side, PHOTO), given.minutes, deadline, given.seed
    )


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
