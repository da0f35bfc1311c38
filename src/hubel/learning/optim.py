"""Optimizers with weight decay on weights only."""

from __future__ import annotations

import torch
from torch import nn

from hubel.learning.config import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: weights of convolutions and dense layers, which decay, and biases and norms, which don't."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def optimizers(model: nn.Module, config: TrainConfig) -> tuple[torch.optim.Optimizer, ...]:
    """Build the optimizers of a model: one, in a tuple, since some recipes need several."""
    lr = config.lr or 0.0
    groups = parameter_groups(model, config.weight_decay or 0.0)
    momentum = 0.9 if config.momentum is None else config.momentum
    if config.optimizer == "adam":
        return (torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999)),)
    if config.optimizer == "adamw":
        return (torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999)),)
    return (torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0),)
