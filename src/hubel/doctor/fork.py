"""Decisive tests: from the same state, on the same batches, once as it is and once with one thing changed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from hubel.events import Step
from hubel.learning.checkpoint import Snapshot, forked
from hubel.learning.config import TrainConfig
from hubel.learning.engine import Batches, TrainState, fit

STEPS = 16  # of each arm
BUDGET = 0.1  # of a training's steps may go into forks
CLEAR, LITTLE = 2.0, 0.01  # standard errors, and share, by which the losses of an arm have to be lower
TINY = 1e-9  # nats
USUAL, LARGE = 1e-3, 1e-2  # share of the weights that a healthy step changes, and a large one
MOST, LEAST, CALM = 1e4, 1e-5, 1 / 3  # times the rate: bounds, and what calms a training that swings


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What two arms came to.

    Attributes:
        factor: times the rate, in the treated arm. without, treated: mean loss over the last half of the steps.
        better: whether the treated arm's is clearly lower, batch by batch. steps: taken in both together. seconds: what
            it cost.
    """

    factor: float
    without: float
    treated: float
    better: bool
    steps: int
    seconds: float


def factor_for(code: str, updates: Sequence[float]) -> float | None:
    """What a suspicion says the rate should be multiplied by; None for one that no rate decides.

    Args:
        updates: shares of the weights that steps have changed.
    """
    if code == "oscillation":
        return CALM
    if code == "rate-too-high":
        return float(np.clip(LARGE / max([u for u in updates if np.isfinite(u)], default=0.1), LEAST, 0.1))
    if code == "rate-too-low" and updates:
        return float(np.clip(USUAL / max(float(np.median(updates)), 1e-12), 10.0, MOST))
    return None


def decide(
    state: TrainState,
    batches: Batches,
    config: TrainConfig,
    factor: float,
    *,
    lr: float,
    size: int,
    class_weights: Tensor | None = None,
    start: Snapshot | None = None,
    steps: int = STEPS,
) -> Verdict:
    """Train two branches from here with the batches that come next, at the rate and at `factor` times the rate.

    The training is given back to the bit, random state included.

    Args:
        lr: the rate of the last step. size: side of the images in pixels. start: an earlier moment to begin from.
    """
    began = time.perf_counter()
    arms = []
    for times in (1.0, factor):
        with forked(state, start) as branch:
            branch.pace, branch.rate = 0.0, 1.0
            constant = replace(config, lr=lr * times, schedule="constant", warmup=0.0, epochs=branch.epoch + steps)
            constant = replace(constant, compile=False)
            events = fit(branch, batches, constant, size=size, class_weights=class_weights)
            taken = itertools.islice((event for event in events if isinstance(event, Step)), steps)
            arms.append([float(event.loss) for event in taken])
    without, treated = (np.nan_to_num(np.array(arm), nan=1e9, posinf=1e9) for arm in arms)
    gain = np.log(np.maximum(without, TINY) / np.maximum(treated, TINY))[steps // 2 :]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
    return Verdict(
        factor=factor,
        without=float(without[steps // 2 :].mean()),
        treated=float(treated[steps // 2 :].mean()),
        better=bool(gain.mean() > max(CLEAR * error, LITTLE)),
        steps=2 * steps,
        seconds=time.perf_counter() - began,
    )
