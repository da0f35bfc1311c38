"""Residual networks: those for ImageNet with torchvision's keys, those for CIFAR, and their plain twins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.assembly import Stem, check_stem
from hubel.nn.blocks import BasicBlock, Bottleneck, Down, Shortcut
from hubel.nn.layers import (
    RISING,
    Activation,
    Attention,
    Norm,
    check_name,
    conv,
    make_activation,
    make_dropout,
    make_norm,
)


class ResNet(nn.Module):
    """Stages of residual blocks, each of half the size and twice the channels of the one before (He et al. 2016).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W. Keys: conv1, bn1, layer1.0.conv1, …, and `key`.

    Args:
        depths: blocks in each stage. width: channels of the first stage, before a bottleneck's expansion.
        stem: ``imagenet`` is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2; ``small``, for images of
            about 32 pixels, is a convolution of stride 1.
        down: the imagenet stem's second halving; ``stride`` gives the convolution a stride of 4, ``none`` keeps the
            map twice as large.
        shortcut: ``none`` makes the plain twin.
        kernel: of the blocks' 3x3 convolutions and of the small stem.
        se, attention: at the end of each block's branch, see `make_attention`.
        dropout: before the last layer. key: what the state dict calls that layer.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        /,
        *,
        classes: int,
        channels: int = 3,
        width: int = 64,
        stem: Stem = "imagenet",
        down: Down = "max",
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
        dropout: float = 0.0,
        key: str = "fc",
    ) -> None:
        super().__init__()
        check_stem(stem)
        check_name("down", down, get_args(Down))
        size, stride = (kernel, 1) if stem == "small" else (7, 4 if down == "stride" else 2)
        self.conv1 = conv(channels, width, size, stride=stride, bias=norm == "none")
        self.bn1 = make_norm(norm, width)
        self.act = make_activation(activation)
        pools = {"max": nn.MaxPool2d, "average": nn.AvgPool2d} if stem == "imagenet" else {}
        self.maxpool = pools[down](3, 2, 1) if down in pools else nn.Identity()
        self.pool_first = down == "max" and activation in RISING  # the same maps, from a quarter of the activations
        make_block = partial(
            block, shortcut=shortcut, norm=norm, activation=activation, kernel=kernel, se=se, attention=attention
        )
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        inputs = width
        for number, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            wide = width * 2**number
            blocks = [make_block(inputs, wide, stride=1 if number == 0 else 2)]
            inputs = wide * block.expansion
            self.add_module(name, nn.Sequential(*blocks, *(make_block(inputs, wide) for _ in range(depth - 1))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = make_dropout(dropout) if dropout else None
        self.key = key
        self.add_module(key, nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.act(self.maxpool(x)) if self.pool_first else self.maxpool(self.act(x))
        for name in self.stages:
            x = getattr(self, name)(x)
        x = torch.flatten(self.avgpool(x), 1)
        return getattr(self, self.key)(x if self.dropout is None else self.dropout(x))  # type: ignore[no-any-return]


def cifar_resnet(depth: int, shortcut: Shortcut = "pad") -> Callable[..., ResNet]:
    """Return what builds three stages of n basic blocks with 16, 32 and 64 channels (He et al. 2016, section 4.2).

    Args:
        depth: layers with weights, 6n+2.
        shortcut: ``pad`` has no parameters (the paper's option A), ``projection`` is option B, ``none`` makes the
            plain twin, for the degradation experiment.

    >>> sum(p.numel() for p in cifar_resnet(20)(classes=10).parameters())
    269722
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(f"a CIFAR ResNet has 6n+2 layers (20, 32, 44, 56, 110, …), got a depth of {depth!r}.")
    depths = ((depth - 2) // 6,) * 3
    return partial(ResNet, BasicBlock, depths, width=16, stem="small", shortcut=shortcut, key="linear")


# Parameters at 1000 classes: 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808.
IMAGENET = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
}

# 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters (paper, table 6).
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
