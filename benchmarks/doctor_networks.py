"""Network kinds that no rule was written with; and, above the line, those that thresholds have seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubel.doctor.specimens import Residual, block, he, head


def dropping(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Four convolutions with batch norm, two poolings and dropout before the head."""
    convs = [*block(channels, width, norm=nn.BatchNorm2d), *block(width, width, norm=nn.BatchNorm2d), nn.MaxPool2d(2)]
    convs += [*block(width, 2 * width, norm=nn.BatchNorm2d), *block(2 * width, 2 * width, norm=nn.BatchNorm2d)]
    pooled, flat, last = head(2 * width, classes)
    return nn.Sequential(*convs, pooled, flat, nn.Dropout(0.3), last)


def separable(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Depthwise convolutions and SiLU, as in MobileNets; linear between expansion and projection."""

    def part(given: int, out: int, stride: int) -> list[nn.Module]:
        deep = nn.Conv2d(given, given, 3, stride, 1, groups=given, bias=False)
        return [deep, nn.BatchNorm2d(given), nn.Conv2d(given, out, 1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]

    first = block(channels, width, norm=nn.BatchNorm2d, act=nn.SiLU)
    return nn.Sequential(*first, *part(width, width, 1), *part(width, 2 * width, 2), *head(2 * width, classes))


def convnext(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Patches, depthwise 5×5 convolutions, and an inverted bottleneck with GELU; group norm over all channels."""

    def part() -> nn.Module:
        deep, norm = nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GroupNorm(1, width)
        return Residual(deep, norm, nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))

    return nn.Sequential(
        nn.Conv2d(channels, width, 2, 2), nn.GroupNorm(1, width), part(), part(), *head(width, classes)
    )


class Beside(nn.Module):
    """Several branches of the same input, put side by side; or the input beside one of them."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate along the channels."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Excited(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): each channel times a share that depends on all of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = [nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1), nn.Sigmoid()]
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), *inner)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh."""
        gated: Tensor = x * self.gate(x)
        return gated


# ---- never seen while thresholds were set


def dense(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Every block's output beside its input, as in DenseNets, norms and activations in front."""

    def part(given: int) -> nn.Module:
        inner = [nn.BatchNorm2d(given), nn.ReLU(), nn.Conv2d(given, width, 3, padding=1, bias=False)]
        return Beside(nn.Identity(), nn.Sequential(*inner))

    first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    down = [nn.Conv2d(3 * width, 2 * width, 1, bias=False), nn.AvgPool2d(2)]
    convs = [first, part(width), part(2 * width), *down, part(2 * width), nn.BatchNorm2d(3 * width), nn.ReLU()]
    return nn.Sequential(*convs, *head(3 * width, classes))


def fire(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Squeeze to a few channels, expand by two branches, as in SqueezeNets; no norm."""

    def part(given: int, out: int) -> list[nn.Module]:
        few = out // 4
        branches = [nn.Sequential(nn.Conv2d(few, out // 2, k, padding=k // 2), nn.ReLU()) for k in (1, 3)]
        return [nn.Conv2d(given, few, 1), nn.ReLU(), Beside(*branches)]

    first = block(channels, width, norm=None)
    return he(
        nn.Sequential(
            *first, *part(width, 2 * width), nn.MaxPool2d(2), *part(2 * width, 2 * width), *head(2 * width, classes)
        )
    )


def excited(channels: int, classes: int, width: int = 16) -> nn.Module:
    """Batch norm, hard swish and squeeze-and-excitation, as in MobileNetV3; two linear layers with dropout."""
    convs = [*block(channels, width, norm=nn.BatchNorm2d, act=nn.Hardswish), Excited(width)]
    convs += [*block(width, 2 * width, norm=nn.BatchNorm2d, act=nn.Hardswish, stride=2), Excited(2 * width)]
    last = [nn.Linear(2 * width, 48), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(48, classes)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *last)


def preact(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Residual blocks with norm and activation in front of each convolution (He et al. 2016b), one of them strided."""

    def part(width: int) -> nn.Module:
        inner = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        more = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        return Residual(*inner, *more)

    down = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
    convs = [nn.Conv2d(channels, width, 3, padding=1, bias=False), part(width), down, part(2 * width)]
    return nn.Sequential(*convs, nn.BatchNorm2d(2 * width), nn.ReLU(), *head(2 * width, classes))
