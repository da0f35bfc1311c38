"""Residual networks: those for ImageNet with torchvision's keys, those for CIFAR, and their plain twins."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.blocks import Activation, BasicBlock, Bottleneck, Norm, Shortcut, conv, make_activation, make_norm

Stem = Literal["imagenet", "small"]
Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Four stages of residual blocks that halve the map and double the channels (He et al. 2016, table 1).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W. State-dict keys are torchvision's.

    Args:
        depths: blocks in each stage.
        stem: ``imagenet`` is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2, ``small`` a 3x3
            convolution of stride 1 for images of about 32 pixels.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        *,
        classes: int,
        channels: int = 3,
        stem: Stem = "imagenet",
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if stem not in get_args(Stem):
            raise UsageError(f"unknown stem {stem!r}: choose one of {', '.join(get_args(Stem))}.")
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = conv(channels, 64, kernel, stride=stride, bias=norm == "none")
        self.bn1 = make_norm(norm, 64)
        self.act = make_activation(activation)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        stage = partial(_stage, block, shortcut=shortcut, norm=norm, activation=activation)
        self.layer1 = stage(depths[0], 64, 64, 1)
        self.layer2 = stage(depths[1], 64 * block.expansion, 128, 2)
        self.layer3 = stage(depths[2], 128 * block.expansion, 256, 2)
        self.layer4 = stage(depths[3], 256 * block.expansion, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Three stages of n basic blocks with 16, 32 and 64 channels: 6n+2 layers (He et al. 2016, section 4.2).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W. Keys: conv1, bn1, layer1.0.conv1, …, linear.

    Args:
        shortcut: ``pad`` has no parameters (the paper's option A), ``projection`` is option B, ``none`` makes the
            plain twin.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        channels: int = 3,
        shortcut: Shortcut = "pad",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"a CIFAR ResNet has 6n+2 layers (20, 32, 44, 56, 110, …), got a depth of {depth!r}.")
        blocks = (depth - 2) // 6
        self.conv1 = conv(channels, 16, 3, bias=norm == "none")
        self.bn1 = make_norm(norm, 16)
        self.act = make_activation(activation)
        stage = partial(_stage, BasicBlock, blocks, shortcut=shortcut, norm=norm, activation=activation)
        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def _stage(
    block: Block,
    depth: int,
    inputs: int,
    width: int,
    stride: int,
    *,
    shortcut: Shortcut,
    norm: Norm,
    activation: Activation,
) -> nn.Sequential:
    """`depth` blocks of which the first changes the size and the number of channels."""
    blocks: list[nn.Module] = []
    for number in range(depth):
        first = number == 0
        blocks.append(
            block(
                inputs if first else width * block.expansion,
                width,
                stride=stride if first else 1,
                shortcut=shortcut,
                norm=norm,
                activation=activation,
            )
        )
    return nn.Sequential(*blocks)


# Parameters at 1000 classes: 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808.
resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
resnet152 = partial(ResNet, Bottleneck, (3, 8, 36, 3))

# Depth is the number of layers with weights; 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters (paper, table 6).
resnet20 = partial(CifarResNet, 20)
resnet32 = partial(CifarResNet, 32)
resnet44 = partial(CifarResNet, 44)
resnet56 = partial(CifarResNet, 56)
resnet110 = partial(CifarResNet, 110)

# The same layers without the shortcuts, for the degradation experiment.
plain20 = partial(CifarResNet, 20, shortcut="none")
plain32 = partial(CifarResNet, 32, shortcut="none")
plain44 = partial(CifarResNet, 44, shortcut="none")
plain56 = partial(CifarResNet, 56, shortcut="none")
plain110 = partial(CifarResNet, 110, shortcut="none")
