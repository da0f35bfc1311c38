"""Putting blocks together: channels, stems and sizes that whole networks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

from hubel.errors import UsageError
from hubel.nn.layers import M, check_name

Stem = Literal["imagenet", "small"]
EARLY_HALVINGS = 2  # that a small stem leaves out, so that the total stride is 8 and not 32


def set_batch_norm(model: M, *, eps: float, momentum: float) -> M:
    """Set epsilon and momentum of every batch norm inside of `model`, and return it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum
    return model


def round_channels(channels: float, multiple: int = 8) -> int:
    """Return the multiple of `multiple` that is nearest to `channels`, or the next one if that loses more than 10 %.

    Widths of scaled MobileNets and EfficientNets are such numbers.

    >>> [round_channels(c) for c in (3, 12, 20, 30.8, 35.2)]
    [8, 16, 24, 32, 32]
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def stem_strides(stem: Stem, strides: Iterable[int]) -> list[int]:
    """Return the strides of a network's layers; a small stem turns the first two halvings into strides of 1.

    >>> stem_strides("small", (2, 1, 2, 2))
    [1, 1, 1, 2]
    """
    check_stem(stem)
    left, result = EARLY_HALVINGS if stem == "small" else 0, []
    for stride in strides:
        skip = stride == 2 and left > 0
        left -= skip
        result.append(1 if skip else stride)
    return result


def check_stem(stem: Stem) -> None:
    """Refuse an unknown stem."""
    check_name("stem", stem, get_args(Stem))


def check_size(network: str, size: tuple[int, int], smallest: int, *, stem: Stem = "small") -> None:
    """Refuse images with a side below `smallest` pixels, of which nothing would be left."""
    if min(size) < smallest:
        hint = "." if stem == "small" else '; with stem="small" it takes smaller ones.'
        raise UsageError(
            f"images of {size[0]}x{size[1]} are too small for {network}: "
            f"the smallest size is {smallest}x{smallest}{hint}"
        )


def assemble(layers: Iterable[nn.Module], *classifier: nn.Module, side: int = 1) -> nn.Sequential:
    """Return a network of `layers`, average pooling to side x side positions, and dense layers, as torchvision has it.

    Keys: features.0, …, classifier.0, …
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        features=nn.Sequential(*layers),
        avgpool=nn.AdaptiveAvgPool2d(side),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(*classifier),
    )
    return nn.Sequential(parts)
