"""The training loop: a generator that yields at the end of every step and of every epoch.

The caller owns the loop. Evaluating, probing, saving and stopping happen between two events, in the caller's own code;
``break`` ends the training. At a Step the gradients are still there, and weights, counters and optimizer are complete.
Nothing is open across a yield: no autocast, no grad mode; and each module's train flag is put back after it, so that
evaluating in between does no harm and frozen norms stay frozen.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hubel.dataset.loader import Batch
from hubel.events import EpochEnd, Step
from hubel.learning.average import follow
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import summed, world_size, wrapped
from hubel.learning.kernels.dispatch import faster
from hubel.learning.schedule import factor, image_size


class Batches(Protocol):
    """What the loop needs of a loader: `hubel.dataset.loader.Loader`, kept features, or one's own."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, with images of `size` pixels a side."""


E = TypeVar("E", Step, EpochEnd)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True)
class Tally:
    """Sums over the batches of an epoch; `sums` stays on the device until somebody reads it.

    Attributes:
        sums: (2,) float64, loss times images, and images that were right; of this process alone.
        images: of all processes. seconds: spent on training.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    images: int = 0
    seconds: float = 0.0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of this process: its mean loss, and its answers."""
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64  # which Apple's GPUs lack
        right = (logits.argmax(1) == labels).sum()
        self.sums = self.sums.to(loss.device, dtype)
        self.sums += torch.stack((loss.to(dtype) * len(labels), right.to(dtype)))


@dataclass(kw_only=True)
class TrainState:
    """What changes while training; `hubel.learning.checkpoint` stores it.

    Attributes:
        average: a copy of the network that follows it slowly (EMA), or None.
        epoch: completed epochs. position: steps taken in the current one. step: optimizer steps so far.
        pace: share of the time budget that is used up, set by the caller where the training has fallen behind its plan:
            rate and image size then follow the larger of this and the share of the steps, so that a machine that is
            slower than measured still ends the schedule in time. The loop ends at 1.
        rate: what the rate of every step is multiplied by, set by the caller that finds it too high or too low.
        tally: of the current epoch. scaler: of float16's gradients.
    """

    model: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    average: nn.Module | None = None
    epoch: int = 0
    position: int = 0
    step: int = 0
    pace: float = 0.0
    rate: float = 1.0
    tally: Tally = field(default_factory=Tally)
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))


def fit(
    state: TrainState,
    loader: Batches,
    config: TrainConfig,
    *,
    size: int,
    class_weights: Tensor | None = None,
) -> Iterator[Step | EpochEnd]:
    """Train until ``config.epochs`` epochs are complete; yields a `Step` after each step and an `EpochEnd`.

    A state that was stored in the middle of an epoch goes on there, to the bit. Under torchrun, each process takes its
    part of every batch, and all of them see the same events.

    Args:
        config: resolved: epochs, lr and precision are set.
        size: final side of the images in pixels.
        class_weights: (K,) float32 for the loss.

    >>> from hubel.nn.zoo import build
    >>> model = build("two-block", classes=3, size=(28, 28))
    >>> state = TrainState(model=model, optimizers=(), epoch=1)
    >>> list(fit(state, [], TrainConfig(epochs=1, precision="float32"), size=28))
    []
    """
    epochs, lr = config.epochs or 0, config.lr or 0.0
    network = wrapped(state.model, sync_norm=config.sync_norm)
    if config.compile:
        network = cast(nn.Module, torch.compile(network, dynamic=False))
    if PRECISIONS[config.precision] is torch.float16 and not state.scaler.is_enabled():
        state.scaler = torch.amp.GradScaler(next(state.model.parameters()).device.type)
    batches = -(-len(loader) // config.accumulate)
    steps = max(epochs * batches, 1)
    while state.epoch < epochs:
        side = image_size(size, config.small_first or 1.0, max((state.step - state.position) / steps, state.pace))
        coming = loader.epoch(state.epoch, side, start=state.position * config.accumulate)
        state.tally = state.tally if state.position else Tally()
        began = time.perf_counter()
        while group := tuple(itertools.islice(coming, config.accumulate)):
            waited = time.perf_counter() - began
            rate = state.rate * lr * factor(config.schedule, max(state.step / steps, state.pace), config.warmup)
            loss, grad_norm = _step(state, network, group, config, rate, class_weights)
            state.step, state.position = state.step + 1, state.position + 1
            images = sum(batch.count for batch in group)
            seconds = time.perf_counter() - began
            state.tally.images, state.tally.seconds = state.tally.images + images, state.tally.seconds + seconds
            step = Step(
                epoch=state.epoch + 1,
                epochs=epochs,
                batch=state.position,
                batches=batches,
                step=state.step,
                steps=steps,
                loss=loss,
                grad_norm=grad_norm,
                lr=rate,
                size=side,
                images=images,
                seconds=seconds,
                waited=waited,
            )
            yield from _shown(step, state.model)
            if state.pace >= 1:
                break
            began = time.perf_counter()
        ended = _epoch_end(state)
        state.epoch, state.position = state.epoch + 1, 0
        yield from _shown(ended, state.model)
        if state.pace >= 1:
            return


def _shown(event: E, model: nn.Module) -> Iterator[E]:
    """Yield an event, and give every module its train flag back."""
    flags = [(module, module.training) for module in model.modules()]
    yield event
    for module, training in flags:
        module.training = training


def _step(
    state: TrainState,
    network: nn.Module,
    group: Sequence[Batch],
    config: TrainConfig,
    lr: float,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Forward and backward over the group's batches, then one optimizer step.

    Returns:
        The mean loss and the norm of all gradients before clipping, 0-d on the device.
    """
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr * parameters.get("share", 1.0)
    dtype = PRECISIONS[config.precision]
    losses: list[Tensor] = []
    for number, batch in enumerate(group, 1):
        alone = number < len(group) and world_size() > 1
        with cast(DistributedDataParallel, network).no_sync() if alone else nullcontext():
            autocast = torch.autocast(batch.images.device.type, dtype=dtype, enabled=dtype is not None)
            with autocast, nullcontext() if config.compile else faster(config.precision):
                logits = network(batch.images)
            exact = logits if logits.dtype == torch.float64 else logits.float()
            smoothing = config.label_smoothing or 0.0
            targets = batch.targets.to(exact.dtype)
            loss = F.cross_entropy(exact, targets, weight=class_weights, label_smoothing=smoothing)
            share = len(batch.labels) / batch.count / len(group)  # of this process in the whole batch
            state.scaler.scale(loss * (share * world_size())).backward()  # DDP takes the mean over processes
        losses.append(loss.detach() * share)
        state.tally.add(loss.detach(), logits.detach(), batch.labels)
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    trained = [p for p in state.model.parameters() if p.grad is not None]
    grad_norm = nn.utils.get_total_norm([cast(Tensor, p.grad) for p in trained])
    if config.clip is not None:
        nn.utils.clip_grads_with_norm_(trained, config.clip, grad_norm)
    for optimizer in state.optimizers:
        state.scaler.step(optimizer)
    state.scaler.update()
    if state.average is not None:
        follow(state.average, state.model, config.ema or 0.0, state.step + 1)
    return summed(torch.stack(losses).sum()), grad_norm


def _epoch_end(state: TrainState) -> EpochEnd:
    tally = state.tally
    loss, right = summed(tally.sums.clone()).tolist()
    return EpochEnd(
        epoch=state.epoch + 1,
        step=state.step,
        lr=float(state.optimizers[0].param_groups[0]["lr"]),
        loss=loss / max(tally.images, 1),
        accuracy=right / max(tally.images, 1),
        images=tally.images,
        images_per_second=tally.images / max(tally.seconds, 1e-9),
    )
