"""LeNet-5 in its dense modern form."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from hubel.errors import UsageError
from hubel.nn.layers import Activation, he_init, make_activation

SMALLEST = 16


def lenet5(
    *,
    classes: int,
    channels: int = 1,
    size: tuple[int, int] = (32, 32),
    activation: Activation = "relu",
    pool: Literal["max", "average"] = "max",
) -> nn.Sequential:
    """LeCun et al. 1998 with every connection of C3 present and a softmax layer instead of the fixed codes.

    The paper's network has 60,000 parameters, trained subsampling layers and a squashing function; this form has
    61,706 at (1, 32, 32) and 10 classes. Its 5x5 convolutions don't pad.

    Args:
        size: height and width in pixels; the first dense layer is made for it.

    Raises:
        UsageError: images below 16x16.

    >>> sum(p.numel() for p in lenet5(classes=10).parameters())
    61706
    """
    if min(size) < SMALLEST:
        raise UsageError(f"images of {size[0]}x{size[1]} are too small for lenet5: the smallest size is 16x16.")
    if pool not in ("max", "average"):
        raise UsageError(f"unknown pool {pool!r}: choose one of max, average.")
    height, width = (((n - 4) // 2 - 4) // 2 for n in size)
    subsample = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=he_init(nn.Conv2d(channels, 6, 5)),
        act1=make_activation(activation),
        pool1=subsample(2),
        conv2=he_init(nn.Conv2d(6, 16, 5)),
        act2=make_activation(activation),
        pool2=subsample(2),
        flatten=nn.Flatten(),
        fc1=he_init(nn.Linear(16 * height * width, 120)),
        act3=make_activation(activation),
        fc2=he_init(nn.Linear(120, 84)),
        act4=make_activation(activation),
        fc3=nn.Linear(84, classes),
    )
    return nn.Sequential(layers)
