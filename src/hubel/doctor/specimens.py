"""Small networks of several kinds, on which faults are planted: each is made of channels, classes and a width."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

Act = Callable[[], nn.Module]


def head(width: int, classes: int) -> list[nn.Module]:
    """Average, and one linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def block(
    given: int, width: int, *, norm: Callable[[int], nn.Module] | None, act: Act = nn.ReLU, stride: int = 1
) -> list[nn.Module]:
    """Convolution, norm and activation; a bias where there is no norm."""
    made: list[nn.Module] = [nn.Conv2d(given, width, 3, stride, 1, bias=norm is None)]
    return [*made, *([norm(width)] if norm else []), act()]


def two_blocks(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Two convolutions with batch norm."""
    first = block(channels, width, norm=nn.BatchNorm2d)
    return nn.Sequential(
        *first, nn.MaxPool2d(2), *block(width, 2 * width, norm=nn.BatchNorm2d), *head(2 * width, classes)
    )


def plain(channels: int, classes: int, width: int = 16, act: Act = nn.ReLU) -> nn.Module:
    """Three convolutions without norm, and two linear layers."""
    convs = [*block(channels, width, norm=None, act=act), *block(width, width, norm=None, act=act), nn.MaxPool2d(2)]
    convs += [*block(width, 2 * width, norm=None, act=act), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return he(nn.Sequential(*convs, nn.Linear(8 * width, 64), act(), nn.Linear(64, classes)))


def gelu(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Group norm and GELU."""

    def norm(n: int) -> nn.Module:
        return nn.GroupNorm(4, n)

    convs = [
        *block(channels, width, norm=norm, act=nn.GELU),
        nn.MaxPool2d(2),
        *block(width, 2 * width, norm=norm, act=nn.GELU),
    ]
    return nn.Sequential(*convs, *block(2 * width, 2 * width, norm=norm, act=nn.GELU), *head(2 * width, classes))


def leaky(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Strides in place of pooling, leaky ReLU, no norm."""

    def act() -> nn.Module:
        return nn.LeakyReLU(0.1)

    convs = [*block(channels, width, norm=None, act=act), *block(width, 2 * width, norm=None, act=act, stride=2)]
    return he(nn.Sequential(*convs, *block(2 * width, 2 * width, norm=None, act=act), *head(2 * width, classes)))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *parts: nn.Module, act: nn.Module | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.act, self.scale = nn.Sequential(*parts), act, scale

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        y = x + self.scale * self.inner(x)
        return y if self.act is None else cast(Tensor, self.act(y))


def resnet(channels: int, classes: int, width: int = 12) -> nn.Module:
    """A stem and two residual blocks."""

    def part(width: int) -> nn.Module:
        inner = [*block(width, width, norm=nn.BatchNorm2d), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        return Residual(*inner, nn.BatchNorm2d(width), act=nn.ReLU())

    down = block(width, 2 * width, norm=nn.BatchNorm2d, stride=2)
    return nn.Sequential(
        *block(channels, width, norm=nn.BatchNorm2d), part(width), *down, part(2 * width), *head(2 * width, classes)
    )


def deep(channels: int, classes: int, *, depth: int, act: Act, width: int = 16) -> nn.Module:
    """Many convolutions without norm or shortcuts."""
    convs = [m for n in range(depth) for m in block(channels if n == 0 else width, width, norm=None, act=act)]
    return nn.Sequential(*convs[: len(convs) // 2], nn.MaxPool2d(2), *convs[len(convs) // 2 :], *head(width, classes))


def he(model: nn.Module, gain: float = 1.0) -> nn.Module:
    """Start all convolutions and linear layers as He et al. (2015) do, times `gain`."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu").mul_(gain)
    return model
