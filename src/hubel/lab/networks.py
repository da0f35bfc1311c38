"""Networks that only a claim needs: without convolutions, with separable ones, and on a picture that is too coarse."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import nn

from hubel.nn.blocks import conv_block, head


def dense(*, classes: int, channels: int = 3, size: tuple[int, int] = (32, 32), parameters: int) -> nn.Sequential:
    """Every pixel to every unit of one hidden layer, which is so wide that there are about `parameters` weights in all.

    >>> sum(p.numel() for p in dense(classes=10, parameters=300_000).parameters())
    299018
    """
    inputs = channels * prod(size)
    hidden = max(1, (parameters - classes) // (inputs + 1 + classes + 2))
    layers = (nn.Flatten(), nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return nn.Sequential(*layers)


def blocks(*, classes: int, channels: int = 3, separable: bool = False, width: int = 32) -> nn.Sequential:
    """Four convolutions of 3x3, three of which halve the map, and global average pooling.

    Args:
        separable: each but the first as one filter a channel, and then 1x1 (Howard et al. 2017).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=conv_block(channels, width))
    for number in range(1, 4):
        inputs, outputs = width * 2 ** (number - 1), width * 2**number
        if separable:
            layers[f"depthwise{number}"] = conv_block(inputs, inputs, groups=inputs)
            layers[f"pointwise{number}"] = conv_block(inputs, outputs, kernel=1, down="max")
        else:
            layers[f"block{number}"] = conv_block(inputs, outputs, down="max")
    layers["head"] = head("gap", width * 8, classes, hidden=None, dropout=0.0)
    return nn.Sequential(layers)


def coarse(*, classes: int, channels: int = 3, pool: int, width: int = 32) -> nn.Sequential:
    """The image is averaged over windows of `pool` pixels before the first of three convolutions sees it."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AvgPool2d(pool))
    for number, inputs in enumerate((channels, width, 2 * width), 1):
        layers[f"block{number}"] = conv_block(inputs, 2 * width if number > 1 else width)
    layers["head"] = head("gap", 2 * width, classes, hidden=None, dropout=0.0)
    return nn.Sequential(layers)
