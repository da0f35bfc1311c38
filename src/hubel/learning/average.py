"""An exponential moving average of the weights (EMA): a copy of the network that follows it slowly."""

from __future__ import annotations

import copy

import torch
from torch import nn

HORIZON = 10  # steps: the first average hardly remembers the first weights


def averaged(model: nn.Module) -> nn.Module:
    """Return the copy that `follow` moves: in eval mode, and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move every number of `average` by 1 - decay towards `model`'s; counters are copied.

    Early on the decay is at most (1 + step) / (10 + step), so that the random start is soon forgotten.
    """
    weight = 1 - min(decay, (1 + step) / (HORIZON + step))
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floating = [(a, b.detach()) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], weight)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)
