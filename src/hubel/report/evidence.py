"""What a report shows: numbers and small pictures, gathered by jobs, drawn here without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.dataset.pack import Images
from hubel.records import Baselines, EpochRow, Finding, ModelCard, Scores

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One image with its Grad-CAM.

    Attributes:
        image: (H, W, C) uint8, C is 1 or 3.
        heat: (H, W) float32 in [0, 1], of the predicted class.
        path: relative to the data's root; label and prediction are class indices; confidence is the softmax value.
        note: shown under the picture when not empty (an all-negative map, say).
    """

    image: Pixels
    heat: Floats
    path: str
    label: int
    prediction: int
    confidence: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything a report shows.

    Attributes:
        title: name of the run. source: where the data came from. created: ISO date and time.
        reported_part: ``test``, or ``val`` when the data came with a val but no test folder.
        counts: part → number of images of each class, in the order of ``card.classes``.
        plan: the derived settings as (what, value, why) in the order they are to be read.
        recipe: the whole recipe as YAML text. environment: versions and hardware.
        command: the command line that makes this run again.
        history: one row per epoch.
        paths, labels, probabilities, images: of the reported part: N strings, (N,) int64, (N, K) float32 rows that sum
            to 1, (N, H, W, C) uint8 (may be a memory map).
        explained_by: the layer Grad-CAM looked at, and why.
        filters_before, filters_after: first convolution's weights (F, C, k, k), None if there is none.
        augmented: (rows, columns, H, W, C) uint8; column 0 is the image itself, the others are augmented versions;
            augmented_by says in words what was done.
        stopped: None, or why the run ended early (one sentence).
    """

    title: str
    source: str
    created: str
    reported_part: str
    card: ModelCard
    counts: dict[str, tuple[int, ...]]
    plan: tuple[tuple[str, str, str], ...]
    recipe: str
    environment: dict[str, Any]
    command: str
    history: tuple[EpochRow, ...]
    scores: Scores
    baselines: Baselines
    findings: tuple[Finding, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: Floats
    images: Images
    right: tuple[Explained, ...] = ()
    wrong: tuple[Explained, ...] = ()
    explained_by: str = ""
    filters_before: Floats | None = None
    filters_after: Floats | None = None
    augmented: Pixels | None = None
    augmented_by: str = ""
    notes: tuple[str, ...] = field(default=())
    parameters: int = 0
    seconds: float = 0.0
    stopped: str | None = None
