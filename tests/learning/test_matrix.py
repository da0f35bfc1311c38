"""Every combination of what a recipe can switch on takes the steps that the formulas say, written out once more here.

Eager and compiled steps agree with the formulas in float64 to 1e-9. In float32 and bfloat16 the whole change of the
weights, six steps long, stays within a share of the change that float64 makes.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.dataset.loader import Batch
from hubel.events import Step
from hubel.learning.average import averaged
from hubel.learning.config import TrainConfig
from hubel.learning.engine import TrainState, fit
from hubel.learning.optim import DENSE, DENSE_MOMENTUM, FLAT, optimizers

STEPS, CLASSES = 6, 3
MOMENTUM = {"sgd": 0.9, "muon": 0.6, "adam": 0.9, "adamw": 0.9}
WITHIN = {"float32": 1e-4, "bfloat16": 0.1}  # of the change that float64 makes


@dataclass
class Noise:
    """Batches of labelled noise in any precision: ``steps`` groups of ``accumulate`` batches."""

    dtype: torch.dtype
    accumulate: int

    def __len__(self) -> int:
        return STEPS * self.accumulate

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        each = 24 // self.accumulate  # the same images for every way to divide them
        for number in range(len(self)):
            images = torch.randn(each, 2, size, size, generator=generator, dtype=torch.float64)
            labels = torch.arange(each) % CLASSES
            images[:, 0] += labels[:, None, None]
            if number >= start:
                targets = F.one_hot(labels, CLASSES).float()
                yield Batch(
                    images=images.to(self.dtype), targets=targets, labels=labels, ids=torch.arange(each), count=each
                )


def network(dtype: torch.dtype, channels_last: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    return model.to(dtype).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def config(optimizer: str, accumulate: int, ema: float | None, **more: object) -> TrainConfig:
    plain = TrainConfig(epochs=1, lr=0.02, weight_decay=0.01, label_smoothing=0.1, precision="float32", clip=5.0)
    return replace(
        plain, optimizer=optimizer, momentum=MOMENTUM[optimizer], accumulate=accumulate, ema=ema, **more
    )  # fmt: skip


def trained(asked: TrainConfig, dtype: torch.dtype, channels_last: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Train by the loop: all weights, and all of the average's."""
    model = network(dtype, channels_last)
    state = TrainState(model=model, optimizers=optimizers(model, asked))
    state.average = averaged(model) if asked.ema else None
    events = list(fit(state, Noise(dtype, asked.accumulate), asked, size=8))
    assert sum(isinstance(event, Step) for event in events) == STEPS
    average = [] if state.average is None else [p.detach().double() for p in state.average.parameters()]
    return [p.detach().double() for p in model.parameters()], average


def by_formula(asked: TrainConfig) -> tuple[list[Tensor], list[Tensor]]:
    """The same in float64, by the formulas of the papers."""
    model = network(torch.float64, channels_last=False)
    weights = list(model.parameters())
    average = [w.detach().clone() for w in weights]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    batches = Noise(torch.float64, asked.accumulate).epoch(0, 8)
    for step in range(STEPS):
        rate = asked.lr * _one_cycle(step / STEPS)
        gradients = [torch.zeros_like(w) for w in weights]
        for batch in itertools.islice(batches, asked.accumulate):
            soft = 0.9 * batch.targets.double() + 0.1 / CLASSES
            loss = -(soft * model(batch.images).log_softmax(1)).sum(1).mean() / asked.accumulate
            gradients = [a + b for a, b in zip(gradients, torch.autograd.grad(loss, weights), strict=True)]
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        with torch.no_grad():
            for n, w in enumerate(weights):
                g = gradients[n] * min(1.0, 5.0 / (norm + 1e-6))
                decay = 0.01 if w.ndim > 1 else 0.0
                if asked.optimizer == "adamw":
                    w.mul_(1 - rate * decay)
                elif w.ndim != 4 or asked.optimizer != "muon":
                    g = g + decay * w
                if asked.optimizer in ("adam", "adamw"):
                    first[n] = 0.9 * first[n] + 0.1 * g
                    second[n] = 0.999 * second[n] + 0.001 * g * g
                    m, v = first[n] / (1 - 0.9 ** (step + 1)), second[n] / (1 - 0.999 ** (step + 1))
                    w.sub_(rate * m / (v.sqrt() + 1e-8))
                elif asked.optimizer == "muon" and w.ndim == 4:
                    first[n] = 0.6 * first[n] + g
                    update = (g + 0.6 * first[n]).reshape(len(w), -1)
                    left, values, right = torch.linalg.svd(update / (update.norm() + 1e-7), full_matrices=False)
                    for _ in range(3):  # the iteration is a polynomial of the singular values
                        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
                    w.mul_(len(w) ** 0.5 / w.norm()).sub_(rate * (left @ values.diag() @ right).view(w.shape))
                else:
                    momentum = DENSE_MOMENTUM if asked.optimizer == "muon" else 0.9
                    times = 1.0 if asked.optimizer == "sgd" else DENSE if w.ndim == 2 else FLAT
                    first[n] = momentum * first[n] + g
                    w.sub_(times * rate * (g + momentum * first[n]))
            share = min(asked.ema or 0.0, (2 + step) / (11 + step))
            average = [share * a + (1 - share) * w for a, w in zip(average, weights, strict=True)]
    return [w.detach() for w in weights], average if asked.ema else []


def _one_cycle(progress: float) -> float:
    return 0.01 + 0.99 * progress / 0.2 if progress < 0.2 else 1 - (progress - 0.2) / 0.8


COMBINATIONS = list(itertools.product(("sgd", "muon", "adam", "adamw"), (1, 2), (None, 0.9), (False, True)))


@pytest.mark.parametrize(("optimizer", "accumulate", "ema", "channels_last"), COMBINATIONS)
def test_eager_steps_are_the_formulas(optimizer: str, accumulate: int, ema: float | None, channels_last: bool) -> None:
    asked = config(optimizer, accumulate, ema)
    found, expected = trained(asked, torch.float64, channels_last), by_formula(asked)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("precision", list(WITHIN))
@pytest.mark.parametrize(("optimizer", "accumulate", "ema", "channels_last"), COMBINATIONS)
def test_lower_precisions_make_nearly_the_same_change(
    optimizer: str, accumulate: int, ema: float | None, channels_last: bool, precision: str
) -> None:
    asked = config(optimizer, accumulate, ema)
    found = trained(replace(asked, precision=precision), torch.float32, channels_last)
    assert _apart(found[0], by_formula(asked)[0]) < WITHIN[precision]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("optimizer", "accumulate", "channels_last"), [("sgd", 1, True), ("muon", 2, False)])
def test_compiled_steps_are_the_formulas(optimizer: str, accumulate: int, channels_last: bool) -> None:
    torch.compiler.reset()
    asked = config(optimizer, accumulate, 0.9)
    found = trained(replace(asked, compile=True), torch.float64, channels_last)
    for mine, theirs in zip(found, by_formula(asked), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_bfloat16_makes_nearly_the_same_change() -> None:
    torch.compiler.reset()
    asked = config("muon", 1, 0.9)
    found = trained(replace(asked, compile=True, precision="bfloat16"), torch.float32, True)
    assert _apart(found[0], by_formula(asked)[0]) < WITHIN["bfloat16"]


def _apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Distance of the weights as a share of how far they went."""
    start = [p.detach() for p in network(torch.float64, channels_last=False).parameters()]
    distance = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    gone = sum(float((a - b).square().sum()) for a, b in zip(start, expected, strict=True))
    return (distance / gone) ** 0.5
