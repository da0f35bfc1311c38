"""A plain training loop made of parts that can be exchanged, so that faults can be planted in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hubel.doctor.doctor import Doctor
from hubel.doctor.specimens import two_blocks
from hubel.doctor.watch import watch

Change = Callable[[nn.Module], Any]
Prepare = Callable[[Tensor], Tensor]


def sgd(rate: float = 0.05, momentum: float = 0.9, decay: float = 5e-4) -> Callable[[Any], torch.optim.Optimizer]:
    """Make an optimizer of parameters."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a loop is made of.

    Attributes:
        network: makes the network. changes: made to it before the optimizer is. late: made after it.
        train, held_out: images (N, C, H, W) in [0, 1] and labels (N,).
        scale: images as the network shall see them. held_scale: held-out images, where otherwise.
        augment: for a batch of training images, after `scale`. collate: called with each batch's size.
        parameters: that the optimizer gets. schedule: made of the optimizer; per_batch: stepped for each batch.
        loss: of outputs and labels. before: called in front of each step with its number, network and optimizer.
        clears, steps_taken, trains, evaluates, quiet: whether zero_grad, step, train(), eval() and no_grad are called.
        keeps: whether evaluation adds up losses that hold their graphs. accumulate: batches for a step.
        every: steps between two evaluations. declared: keyword arguments of `watch`.
    """

    network: Callable[[], nn.Module]
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    scale: Prepare = lambda x: x
    held_scale: Prepare | None = None
    augment: Prepare | None = None
    collate: Callable[[int], None] | None = None
    changes: tuple[Change, ...] = ()
    late: Change | None = None
    parameters: Callable[[nn.Module], Any] = lambda model: model.parameters()
    optimizer: Callable[[Any], torch.optim.Optimizer] = field(default_factory=sgd)
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    per_batch: bool = True
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    before: Callable[[int, nn.Module, torch.optim.Optimizer], Any] | None = None
    batch: int = 32
    shuffle: bool = True
    clears: bool = True
    clears_late: bool = False
    steps_taken: bool = True
    trains: bool = True
    evaluates: bool = True
    quiet: bool = True
    keeps: bool = False
    accumulate: int = 1
    steps: int = 160
    every: int = 40
    seed: int = 0
    declared: dict[str, Any] = field(default_factory=dict)


def digits(network: Callable[..., nn.Module] = two_blocks, *, seed: int = 0, **changes: Any) -> Lesson:
    """A healthy lesson on 1,000 of scikit-learn's digits (8×8 pixels), 256 others held out."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(found.target)[order]
    mean, std = images.mean(), images.std()
    return Lesson(
        network=partial(network, 1, 10),
        train=(images[:1000], labels[:1000]),
        held_out=(images[1000:1256], labels[1000:1256]),
        scale=lambda x: (x - mean) / std,
        seed=seed,
        **changes,
    )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A lesson's outcome: what the doctor found, the last accuracy on held-out images, and the seconds it took."""

    doctor: Doctor
    accuracy: float
    seconds: float
    model: nn.Module


def run(lesson: Lesson, *, watching: bool = True, **options: Any) -> Learned:
    """Train, watched or not; an error that ends the loop ends the lesson."""
    torch.manual_seed(lesson.seed)
    model = lesson.network()
    for change in lesson.changes:
        change(model)
    optimizer = lesson.optimizer(lesson.parameters(model))
    if lesson.late:
        lesson.late(model)
    held_out = (lesson.held_scale or lesson.scale)(lesson.held_out[0]), lesson.held_out[1]
    began, accuracies = time.perf_counter(), [0.0]
    options = {"validation": held_out, "tell": lambda _finding: None, **lesson.declared, **options}
    with (
        suppress(RuntimeError, IndexError, ValueError, MemoryError),
        watch(model, optimizer, **options) if watching else nullcontext(Doctor(model=model, optimizers=[])) as doctor,
    ):
        accuracies += _loop(lesson, model, optimizer, held_out)
    return Learned(doctor=doctor, accuracy=accuracies[-1], seconds=time.perf_counter() - began, model=model)


def _loop(
    lesson: Lesson, model: nn.Module, optimizer: torch.optim.Optimizer, held_out: tuple[Tensor, Tensor]
) -> Iterator[float]:
    """Yield the accuracy of each evaluation."""
    schedule = lesson.schedule(optimizer) if lesson.schedule else None
    pairs = TensorDataset(*lesson.train)
    loader = DataLoader(
        pairs, lesson.batch, shuffle=lesson.shuffle, drop_last=True, collate_fn=lambda b: _batch(lesson, b)
    )
    count = passes = 0
    model.train()
    while passes < lesson.steps * lesson.accumulate:
        if lesson.trains:
            model.train()
        for images, labels in loader:
            if lesson.clears and passes % lesson.accumulate == 0:
                optimizer.zero_grad()
            (lesson.loss(model(images), labels) / lesson.accumulate).backward()
            if lesson.clears_late:
                optimizer.zero_grad(set_to_none=False)
            passes += 1
            if passes % lesson.accumulate:
                continue
            count += 1
            if lesson.before:
                lesson.before(count, model, optimizer)
            if lesson.steps_taken:
                optimizer.step()
            if schedule and lesson.per_batch:
                schedule.step()
            if count % lesson.every == 0:
                yield _evaluate(lesson, model, held_out)
                if lesson.trains:
                    model.train()
            if count >= lesson.steps:
                break
        if schedule and not lesson.per_batch:
            schedule.step()


def _evaluate(lesson: Lesson, model: nn.Module, held_out: tuple[Tensor, Tensor]) -> float:
    right, losses = 0, torch.zeros(())
    if lesson.evaluates:
        model.eval()
    with torch.set_grad_enabled(not lesson.quiet):
        for images, labels in zip(held_out[0].split(16), held_out[1].split(16), strict=True):
            outputs = model(images)
            right += int((outputs.argmax(1) == labels).sum())
            loss = lesson.loss(outputs, labels)
            losses = losses + (loss if lesson.keeps else loss.detach())
    return right / len(held_out[1])


def _batch(lesson: Lesson, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if lesson.collate:
        lesson.collate(len(pairs))
    images = lesson.scale(torch.stack([image for image, _ in pairs]))
    return (lesson.augment(images) if lesson.augment else images), torch.stack([label for _, label in pairs])
