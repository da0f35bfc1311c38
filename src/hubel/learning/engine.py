"""The training loop: a generator that yields at the end of every step and of every epoch.

The caller owns the loop. Evaluating, probing, saving and stopping happen between two events, in the caller's own code;
``break`` ends the training. At a Step the gradients are still there, and weights, counters and optimizer are complete.
Nothing is open across a yield: no autocast, no grad mode; and each module's train flag is put back after it, so that
evaluating in between does no harm and frozen norms stay frozen.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.dataset.loader import Batch
from hubel.learning.config import TrainConfig
from hubel.learning.schedule import factor, image_size


class Batches(Protocol):
    """What the loop needs of a loader: `hubel.dataset.loader.Loader`, kept features, or one's own."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, with images of `size` pixels a side."""


PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True)
class TrainState:
    """What changes while training.

    Attributes:
        epoch: completed epochs. position: steps taken in the current one. step: optimizer steps so far.
    """

    model: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    epoch: int = 0
    position: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step is done.

    Attributes:
        epoch, step: 1-based. loss: 0-d float32 tensor on the device, before the step. images: in this step.
        steps: of the whole plan. seconds: spent on this step, waiting for data included.
    """

    epoch: int
    step: int
    steps: int
    loss: Tensor
    lr: float
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """An epoch is done.

    Attributes:
        loss, accuracy: means over the epoch's augmented batches, as they were met.
        images_per_second: of training alone.
    """

    epoch: int
    step: int
    lr: float
    loss: float
    accuracy: float
    images: int
    images_per_second: float


def fit(
    state: TrainState,
    loader: Batches,
    config: TrainConfig,
    *,
    size: int,
    class_weights: Tensor | None = None,
    pace: Callable[[], float] = lambda: 0.0,
) -> Iterator[Step | EpochEnd]:
    """Train until ``config.epochs`` epochs are complete; yields a `Step` after each step and an `EpochEnd`.

    Args:
        config: resolved: epochs, lr and precision are set.
        size: final side of the images in pixels.
        class_weights: (K,) float32 for the loss.
        pace: share of the time budget that is used up. Where it runs ahead of the steps, rate and image size follow
            it, so that a machine slower than measured still ends the schedule in time, and the loop ends at 1.
    """
    epochs, lr = config.epochs or 0, config.lr or 0.0
    device = next(state.model.parameters()).device
    dtype = PRECISIONS[config.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    per_epoch = -(-len(loader) // config.accumulate)
    steps = epochs * per_epoch
    while state.epoch < epochs:
        tally = _Tally(device)
        side = image_size(size, config.small_first or 1.0, max(state.step / steps, pace()))
        batches = loader.epoch(state.epoch, side, start=state.position * config.accumulate)
        began = time.perf_counter()
        while group := tuple(itertools.islice(batches, config.accumulate)):
            rate = lr * factor(config.schedule, max(state.step / steps, pace()), config.warmup)
            loss = _step(state, group, config, rate, dtype, scaler, class_weights, tally)
            state.step, state.position = state.step + 1, state.position + 1
            images = sum(len(batch.labels) for batch in group)
            seconds = time.perf_counter() - began
            tally.seconds += seconds
            flags = [module.training for module in state.model.modules()]
            yield Step(
                epoch=state.epoch + 1, step=state.step, steps=steps, loss=loss, lr=rate, images=images, seconds=seconds
            )
            for module, flag in zip(state.model.modules(), flags, strict=True):
                module.training = flag
            if pace() >= 1:
                break
            began = time.perf_counter()
        state.epoch, state.position = state.epoch + 1, 0
        yield tally.epoch_end(state, rate)
        for module, flag in zip(state.model.modules(), flags, strict=True):
            module.training = flag
        if pace() >= 1:
            return


def _step(
    state: TrainState,
    group: Sequence[Batch],
    config: TrainConfig,
    lr: float,
    dtype: torch.dtype | None,
    scaler: torch.amp.GradScaler,
    class_weights: Tensor | None,
    tally: _Tally,
) -> Tensor:
    """Forward and backward over the group's batches, then one optimizer step; returns the mean loss."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr * parameters.get("share", 1.0)
    total = torch.zeros((), device=group[0].images.device)
    for batch in group:
        with torch.autocast(batch.images.device.type, dtype=dtype, enabled=dtype is not None):
            logits = state.model(batch.images)
        loss = F.cross_entropy(
            logits.float(), batch.targets, weight=class_weights, label_smoothing=config.label_smoothing or 0.0
        )
        scaler.scale(loss / len(group)).backward()
        total += loss.detach() / len(group)
        tally.add(loss.detach(), logits.detach(), batch.labels)
    for optimizer in state.optimizers:
        scaler.unscale_(optimizer)
    if config.clip is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    for optimizer in state.optimizers:
        scaler.step(optimizer)
    scaler.update()
    return total


class _Tally:
    """Sums of an epoch; they stay on the device until the epoch ends."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.right = torch.zeros((), device=device, dtype=torch.int64)
        self.images, self.seconds = 0, 0.0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += loss * len(labels)
        self.right += (logits.argmax(1) == labels).sum()
        self.images += len(labels)

    def epoch_end(self, state: TrainState, lr: float) -> EpochEnd:
        return EpochEnd(
            epoch=state.epoch,
            step=state.step,
            lr=lr,
            loss=float(self.loss) / max(self.images, 1),
            accuracy=int(self.right) / max(self.images, 1),
            images=self.images,
            images_per_second=self.images / max(self.seconds, 1e-9),
        )
