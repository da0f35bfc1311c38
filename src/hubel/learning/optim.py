"""Optimizers with weight decay on weights only, and a rate of its own for each stage; and Muon for filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hubel.learning.config import TrainConfig


def parameter_groups(
    model: nn.Module, weight_decay: float, *, stages: Sequence[Sequence[str]] = (), stage_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group what can be trained: weights of convolutions and dense layers decay, biases and norms don't.

    Args:
        stages: names of the modules of each stage, from the image to the head.
        stage_decay: rate of a stage as a share of the next one's; a group has its own under ``share``.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = (n for n, names in enumerate(stages, 1) if any(name.startswith(f"{stage}.") for stage in names))
            distance = len(stages) - next(own, len(stages))  # none is told: the full rate
            decays = parameter.squeeze().ndim > 1  # a scale per channel is no weight, whatever its shape
            groups.setdefault((stage_decay**distance, decays), []).append(parameter)
    return [
        {"params": found, "weight_decay": weight_decay if decays else 0.0, "share": share}
        for (share, decays), found in groups.items()
    ]


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan (2024): singular values come near 1 in few steps
ITERATIONS = 3
DENSE, FLAT = 2.5, 25.0  # rates of SGD for dense layers, and for biases and norms, as multiples of the filters'
DENSE_MOMENTUM = 0.85  # of that SGD


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update of each filter bank is made orthogonal (Jordan 2024).

    A bank (K, C, h, w) is taken as a matrix (K, C·h·w) with a row per filter. The bank itself is kept at the norm of
    an orthogonal one, √K, which a norm layer behind it makes no difference to: the rate is then the relative change.

    Args:
        dtype: that the updates are made orthogonal in: the filters' own where None.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.6, dtype: torch.dtype | None = None) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every filter bank that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for bank in group["params"]:
                if bank.grad is None:
                    continue
                state = self.state[bank]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(bank.grad)
                moving = state["momentum_buffer"].mul_(group["momentum"]).add_(bank.grad)
                update = bank.grad.add(moving, alpha=group["momentum"])
                bank.mul_(len(bank) ** 0.5 / bank.norm())
                bank.add_(orthogonal(update.reshape(len(bank), -1), self.dtype).view(bank.shape), alpha=-group["lr"])


def orthogonal(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Bring the singular values of (m, n) near 1 by Newton-Schulz iterations, computed in `dtype`."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(dtype or matrix.dtype)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.T if tall else x).to(matrix.dtype)
    return result


def optimizers(
    model: nn.Module, config: TrainConfig, *, stages: Sequence[Sequence[str]] = ()
) -> tuple[torch.optim.Optimizer, ...]:
    """Build the optimizers of a model, in a tuple: one, or two where filters have their own (Muon)."""
    lr = config.lr or 0.0
    groups = parameter_groups(model, config.weight_decay or 0.0, stages=stages, stage_decay=config.stage_decay)
    momentum = 0.9 if config.momentum is None else config.momentum
    if config.optimizer == "muon":
        return _muon_and_sgd(groups, lr, momentum, torch.bfloat16 if config.precision == "bfloat16" else None)
    if config.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return (kind(groups, lr=lr, betas=(momentum, 0.999), fused=True),)
    return (torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True),)


def _muon_and_sgd(
    groups: list[dict[str, Any]], lr: float, momentum: float, dtype: torch.dtype | None
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for filter banks, SGD for dense layers, norms and biases."""
    filters, rest = [], []
    for group in groups:
        banks = [p for p in group["params"] if p.ndim == 4]
        if banks:
            filters.append({"params": banks, "share": group["share"]})
        for flat, times in ((False, DENSE), (True, FLAT)):
            others = [p for p in group["params"] if p.ndim != 4 and (p.ndim < 2) == flat]
            if others:
                rest.append({**group, "params": others, "share": times * group["share"]})
    found: list[torch.optim.Optimizer] = [Muon(filters, lr=lr, momentum=momentum, dtype=dtype)] if filters else []
    if rest:
        found.append(torch.optim.SGD(rest, lr=lr, momentum=DENSE_MOMENTUM, nesterov=True))
    return tuple(found)
