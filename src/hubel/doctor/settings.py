"""What the optimizers' settings do to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def momentum(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """The largest share of the last step that a step takes over."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return max((group.get("momentum", group.get("betas", (0.0,))[0]) for group in groups), default=0.0)


def decay(optimizers: Sequence[torch.optim.Optimizer], gradients: Mapping[int, Tensor | None]) -> float:
    """Root of the summed squares of decay times weights, over that of the gradients."""
    pull = push = 0.0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                g = gradients.get(id(p))
                if g is not None:
                    pull += (group.get("weight_decay", 0.0) * float(p.detach().norm())) ** 2
                    push += float(g.norm()) ** 2
    return math.sqrt(pull / push) if push > 0 else 0.0


def shrink(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """Of the weights, in a step, where decay isn't divided by the gradient's size as in Adam."""
    found = [0.0]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            plain = "betas" not in group or group.get(
                "decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)
            )
            rate = float(group["lr"]) / (1 - min(group.get("momentum", 0.0), 0.999))
            found.append(rate * group.get("weight_decay", 0.0) if plain else 0.0)
    return max(found)
