"""What helps against a finding in hubel's own loop: a change that can be tried in a fork, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.dataset.config import PRESETS
from hubel.doctor.probes import DROPOUTS
from hubel.learning.engine import Batches, TrainState
from hubel.records import Finding

USUAL, LARGE = 1e-3, 3e-3  # share of the weights that a healthy step changes, and a large one
MOST, LEAST, CALM = 1e4, 1e-4, 1 / 3  # times the rate: bounds, and what calms a training that swings
DECAY, DROPOUT, MOMENTUM = 5e-4, 0.2, 0.9  # what is usual
EARLY = 2  # steps up to which a fault is one of the start, not of the rate
ANEW = ("constant-start", "bad-head-start", "dead-channels", "saturation", "vanishing", "exploding")

Undo = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change to a training.

    Attributes:
        words: what it does, after the finding's name. rate: what the rate is multiplied by.
        class_weights: (K,) for the loss, in place of its own.
        change: alters weights, optimizers or the loader, and returns what alters the latter two back.
        sound: whether it begins at the last sound weights.
        held_out: whether held-out images decide, since with it the training loss is another one.
        sure: whether it needs no test: what was measured can't get better by itself.
        lasts: whether a training that is resumed needs it again: its weights know nothing of it.
    """

    words: str
    rate: float = 1.0
    class_weights: Tensor | None = None
    change: Callable[[], Undo] | None = None
    sound: bool = False
    held_out: bool = False
    sure: bool = False
    lasts: bool = True


def remedy_for(
    finding: Finding,
    state: TrainState,
    batches: Batches,
    *,
    updates: Sequence[float] = (),
    counts: Sequence[int] = (),
    fresh: bool = True,
) -> Remedy | None:
    """What the loop itself can do about a finding; None where that is the user's to mend.

    Args:
        updates: shares of the weights that steps have changed. counts: training images of each class.
        fresh: whether the network began without trained weights.
    """
    code = finding.code
    if code == "oscillation" and any(_momentum(group) > MOMENTUM for group in _groups(state)):
        return Remedy(words=f"momentum is {MOMENTUM}", change=lambda: _all(calm(state)))
    factor = _factor(code, updates)
    if factor is not None:
        words, sound = f"the rate is {_times(factor)} times what was planned", code == "rate-too-high"
        return Remedy(words=words, rate=factor, sound=sound, lasts=False)
    if code in ANEW and fresh and state.step <= EARLY:
        words = "the layers have new weights, as He et al. (2015) start them"
        return Remedy(words=words, change=partial(_start_anew, state), sure=True, lasts=False)
    if code == "over-regularised":
        words = f"weight decay is {DECAY} and dropout {DROPOUT} at most"
        return Remedy(words=words, change=partial(_loosen, state), held_out=True)
    if code == "destructive-augmentation" and hasattr(batches, "augmentation"):
        return Remedy(words="images are not augmented", change=partial(_soften, batches), held_out=True)
    if code == "imbalance" and len(counts) and min(counts) > 0:
        weights = torch.tensor([sum(counts) / len(counts) / count for count in counts]).clamp(max=20)
        device = next(state.model.parameters()).device
        return Remedy(words="rare classes weigh more in the loss", class_weights=weights.to(device), held_out=True)
    return None


def _factor(code: str, updates: Sequence[float]) -> float | None:
    if code == "oscillation":
        return CALM
    if code == "rate-too-high":
        return lower_rate(updates)
    if code == "rate-too-low" and updates:
        return float(np.clip(USUAL / max(float(np.median(updates)), 1e-12), 10.0, MOST))
    return None


def lower_rate(updates: Sequence[float]) -> float:
    """What the rate is multiplied by, a tenth at most, so that the largest step is one of the large healthy ones."""
    return float(np.clip(LARGE / max([u for u in updates if np.isfinite(u)], default=0.1), LEAST, 0.1))


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"


def _groups(state: TrainState) -> list[dict[str, Any]]:
    return [group for optimizer in state.optimizers for group in optimizer.param_groups]


def _momentum(group: dict[str, Any]) -> float:
    return float(group.get("momentum") or group.get("betas", (0.0,))[0])


def _set(group: dict[str, Any], **values: Any) -> Undo:
    before = {name: group[name] for name in values}
    group.update(values)
    return lambda: group.update(before)


def _all(undos: Sequence[Undo]) -> Undo:
    def back() -> None:
        for undo in undos:
            undo()

    return back


def calm(state: TrainState) -> list[Undo]:
    """The usual momentum where it is heavier, and forget what was gathered with that. Returns the ways back, if any."""
    undos = []
    for group in _groups(state):
        if _momentum(group) > MOMENTUM:
            usual = {"momentum": MOMENTUM} if "momentum" in group else {"betas": (MOMENTUM, group["betas"][1])}
            undos.append(_set(group, **usual))
    if undos:
        _forget(state)
    return undos


def _loosen(state: TrainState) -> Undo:
    undos = [_set(g, weight_decay=min(g["weight_decay"], DECAY)) for g in _groups(state) if "weight_decay" in g]
    drops = [(m, m.p) for m in state.model.modules() if isinstance(m, DROPOUTS) and m.p > DROPOUT]
    for module, _ in drops:
        module.p = DROPOUT

    def tighten() -> None:
        for module, p in drops:
            module.p = p

    return _all([*undos, tighten])


def _soften(batches: Any) -> Undo:
    before = batches.augmentation
    batches.augmentation = replace(PRESETS["none"], flip=before.flip)

    def harden() -> None:
        batches.augmentation = before

    return harden


@torch.no_grad()
def _start_anew(state: TrainState) -> Undo:
    """He et al. (2015) for layers, 1 and 0 for norms."""
    for module in state.model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "running_mean") or isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.reset_parameters()  # type: ignore[operator]
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
    _forget(state)
    return lambda: None


def _forget(state: TrainState) -> None:
    for optimizer in state.optimizers:
        optimizer.state.clear()
