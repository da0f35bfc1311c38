"""Optimizers with weight decay on weights only, and a rate of its own for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

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
            distance = len(stages) - 1 - _stage_of(name, stages)
            decays = parameter.squeeze().ndim > 1  # a scale per channel is no weight, whatever its shape
            groups.setdefault((stage_decay**distance, decays), []).append(parameter)
    return [
        {"params": found, "weight_decay": weight_decay if decays else 0.0, "share": share}
        for (share, decays), found in groups.items()
    ]


def optimizers(
    model: nn.Module, config: TrainConfig, *, stages: Sequence[Sequence[str]] = ()
) -> tuple[torch.optim.Optimizer, ...]:
    """Build the optimizers of a model: one, in a tuple, since some recipes need several."""
    lr = config.lr or 0.0
    groups = parameter_groups(model, config.weight_decay or 0.0, stages=stages, stage_decay=config.stage_decay)
    momentum = 0.9 if config.momentum is None else config.momentum
    if config.optimizer == "adam":
        return (torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999)),)
    if config.optimizer == "adamw":
        return (torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999)),)
    return (torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0),)


def _stage_of(parameter: str, stages: Sequence[Sequence[str]]) -> int:
    """The stage that a parameter is of; the last where none is told, so that its rate is the full one."""
    for number, names in enumerate(stages):
        if any(parameter.startswith(name + ".") for name in names):
            return number
    return len(stages) - 1
