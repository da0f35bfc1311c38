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
    """Four stages of residual blocks that halve the map and double the channels (He et al. 2016, table 1).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W. State-dict keys are torchvision's.

    Args:
        depths: blocks in each stage.
        stem: ``imagenet`` is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2, ``small`` a 3x3
            convolution of stride 1 for images of about 32 pixels.
        down: the imagenet stem's second halving; ``stride`` gives the convolution a stride of 4, ``none`` keeps the
            map twice as large.
        kernel: of the blocks' 3x3 convolutions.
        se, attention: at the end of each block's branch, see `make_attention`.
        dropout: before the last layer.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        /,
        *,
        classes: int,
        channels: int = 3,
        stem: Stem = "imagenet",
        down: Down = "max",
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stem(stem)
        size, stride = (3, 1) if stem == "small" else (7, 4 if down == "stride" else 2)
        self.conv1 = conv(channels, 64, size, stride=stride, bias=norm == "none")
        self.bn1 = make_norm(norm, 64)
        self.act = make_activation(activation)
        self.maxpool = nn.Identity() if stem == "small" else _stem_pool(down)
        self.pool_first = down == "max" and activation in RISING  # the same maps, from a quarter of the activations
        make_block = partial(
            block, shortcut=shortcut, norm=norm, activation=activation, kernel=kernel, se=se, attention=attention
        )
        widths = [width * block.expansion for width in (64, 128, 256, 512)]
        self.layer1 = _stage(make_block, depths[0], 64, 64, widths[0], 1)
        self.layer2 = _stage(make_block, depths[1], widths[0], 128, widths[1], 2)
        self.layer3 = _stage(make_block, depths[2], widths[1], 256, widths[2], 2)
        self.layer4 = _stage(make_block, depths[3], widths[2], 512, widths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = make_dropout(dropout) if dropout else None
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.act(self.maxpool(x)) if self.pool_first else self.maxpool(self.act(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x if self.dropout is None else self.dropout(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Three stages of n basic blocks with 16, 32 and 64 channels: 6n+2 layers (He et al. 2016, section 4.2).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W. Keys: conv1, bn1, layer1.0.conv1, …, linear.

    Args:
        shortcut: ``pad`` has no parameters (the paper's option A), ``projection`` is option B, ``none`` makes the
            plain twin.
        kernel: of all convolutions.
        se, attention: at the end of each block's branch, see `make_attention`.
        dropout: before the last layer.
    """

    def __init__(
        self,
        depth: int,
        /,
        *,
        classes: int,
        channels: int = 3,
        shortcut: Shortcut = "pad",
        norm: Norm = "batch",
        activation: Activation = "relu",
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"a CIFAR ResNet has 6n+2 layers (20, 32, 44, 56, 110, …), got a depth of {depth!r}.")
        blocks = (depth - 2) // 6
        self.conv1 = conv(channels, 16, kernel, bias=norm == "none")
        self.bn1 = make_norm(norm, 16)
        self.act = make_activation(activation)
        make_block = partial(
            BasicBlock, shortcut=shortcut, norm=norm, activation=activation, kernel=kernel, se=se, attention=attention
        )
        self.layer1 = _stage(make_block, blocks, 16, 16, 16, 1)
        self.layer2 = _stage(make_block, blocks, 16, 32, 32, 2)
        self.layer3 = _stage(make_block, blocks, 32, 64, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = make_dropout(dropout) if dropout else None
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = torch.flatten(self.avgpool(x), 1)
        return self.linear(x if self.dropout is None else self.dropout(x))  # type: ignore[no-any-return]


def _stem_pool(down: Down) -> nn.Module:
    check_name("down", down, get_args(Down))
    if down == "max":
        return nn.MaxPool2d(3, 2, 1)
    return nn.AvgPool2d(3, 2, 1) if down == "average" else nn.Identity()


def _stage(
    make_block: Callable[..., nn.Module], depth: int, inputs: int, width: int, outputs: int, stride: int
) -> nn.Sequential:
    """`depth` blocks of which the first changes the size and the number of channels."""
    first = make_block(inputs, width, stride=stride)
    return nn.Sequential(first, *(make_block(outputs, width) for _ in range(depth - 1)))


# Parameters at 1000 classes: 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808.
resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
resnet152 = partial(ResNet, Bottleneck, (3, 8, 36, 3))

# Depth is the number of layers with weights; 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters (paper, table 6).
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
PlainNet = partial(CifarResNet, shortcut="none")  # the same layers without shortcuts, for the degradation experiment
