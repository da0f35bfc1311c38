"""Decisive tests: from the same state, on the same batches, once as it is and once with one thing changed."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.doctor.remedies import Remedy
from hubel.events import Step
from hubel.learning.checkpoint import Snapshot, forked
from hubel.learning.config import TrainConfig
from hubel.learning.engine import Batches, TrainState, fit

STEPS = 16  # of each arm
BUDGET = 0.1  # of a training's steps may go into forks
CLEAR, LITTLE = 2.0, 0.01  # standard errors, and share, by which the losses of an arm have to be lower
NEARLY_ALL = 7 / 8  # share of batches, or images, in which the losses are lower by so much
TINY = 1e-9  # nats


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What two arms came to.

    Attributes:
        remedy: what the treated arm had. without, treated: mean loss, of the last half of the steps or of held-out
            images. better: whether the treated arm's is clearly lower, batch by batch or image by image.
        steps: taken in both together. seconds: what it cost.
    """

    remedy: Remedy
    without: float
    treated: float
    better: bool
    steps: int
    seconds: float


def decide(
    state: TrainState,
    batches: Batches,
    config: TrainConfig,
    remedy: Remedy,
    *,
    lr: float,
    size: int,
    class_weights: Tensor | None = None,
    start: Snapshot | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    steps: int = STEPS,
) -> Verdict:
    """Train two branches from here with the batches that come next, as it is and with the remedy.

    The training is given back to the bit, random state included.

    Args:
        lr: the rate of the last step. size: side of the images in pixels. start: the last sound moment.
        held_out: images (N, C, H, W) and labels (N,) that decide where the remedy says so.
    """
    began = time.perf_counter()
    arms = []
    for treated in (False, True):
        with forked(state, start if remedy.sound else None) as branch:
            undo = remedy.change() if treated and remedy.change else None
            branch.pace, branch.rate = 0.0, 1.0
            weights = remedy.class_weights if treated and remedy.class_weights is not None else class_weights
            rate, long = lr * (remedy.rate if treated else 1.0), branch.epoch + steps
            constant = replace(config, lr=rate, schedule="constant", warmup=0.0, epochs=long, compile=False)
            try:
                events = fit(branch, batches, constant, size=size, class_weights=weights)
                taken = itertools.islice((event for event in events if isinstance(event, Step)), steps)
                losses = np.array([float(event.loss) for event in taken])[steps // 2 :]
                if remedy.held_out and held_out is not None:
                    losses = _held_out(branch, *held_out)
            finally:
                if undo is not None:
                    undo()
        arms.append(np.nan_to_num(losses, nan=1e9, posinf=1e9))
    without, changed = arms
    if remedy.held_out:
        gain = (without - changed) / max(float(without.mean()), TINY)
    else:
        gain = np.log(np.maximum(without, TINY) / np.maximum(changed, TINY))
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
    clear = gain.mean() > CLEAR * error or (gain > LITTLE).mean() >= NEARLY_ALL  # a loss that leaps has a large error
    return Verdict(
        remedy=remedy,
        without=float(without.mean()),
        treated=float(changed.mean()),
        better=bool(clear and gain.mean() > LITTLE),
        steps=2 * steps,
        seconds=time.perf_counter() - began,
    )


@torch.no_grad()
def _held_out(state: TrainState, images: Tensor, labels: Tensor) -> np.ndarray:
    """Cross-entropy of each image (N,), classes counting alike."""
    state.model.eval()
    losses = F.cross_entropy(state.model(images).float(), labels, reduction="none")
    counts = torch.bincount(labels).clamp(min=1)
    weights = len(labels) / len(counts[counts > 0]) / counts[labels]
    return (losses * weights).cpu().numpy()
