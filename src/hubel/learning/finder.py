"""The learning-rate finder: a short sweep from tiny to huge rates (Smith 2017), on a copy of the weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass

from hubel.dataset.loader import Loader
from hubel.errors import HubelError
from hubel.events import Step
from hubel.learning.config import TrainConfig
from hubel.learning.engine import TrainState, fit
from hubel.learning.optim import optimizers

PEAK = {"sgd": 10.0, "adam": 1.0, "adamw": 1.0, "muon": 1.0}  # where the sweep ends; it starts seven decades below
STEPS = 100


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """Learning rates, the smoothed loss at each, and the suggestion: the rate of the lowest loss divided by ten."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_lr(state: TrainState, loader: Loader, config: TrainConfig, *, size: int) -> LrCurve:
    """Sweep the learning rate over about 100 steps and suggest one; the given state is not changed.

    Raises:
        HubelError: the loss was never finite.
    """
    model = copy.deepcopy(state.model)
    sweep = dataclasses.replace(
        config,
        schedule="sweep",
        lr=PEAK[config.optimizer or "sgd"],
        epochs=math.ceil(STEPS / max(len(loader), 1)),
        warmup=0.0,
    )
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for event in fit(TrainState(model=model, optimizers=optimizers(model, sweep)), loader, sweep, size=size):
        if isinstance(event, Step):
            loss = float(event.loss)
            if not math.isfinite(loss):
                break
            mean = 0.9 * mean + 0.1 * loss
            rates.append(event.lr)
            losses.append(mean / (1 - 0.9 ** len(rates)))  # without the bias of starting at zero
            if losses[-1] > 3 * min(losses):
                break
    if not rates:
        raise HubelError("The learning-rate finder saw no finite loss: look at the images, or give --lr.")
    best = min(range(len(losses)), key=losses.__getitem__)
    return LrCurve(rates=tuple(rates), losses=tuple(losses), suggestion=rates[best] / 10)
