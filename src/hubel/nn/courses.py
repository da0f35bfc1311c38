"""The small networks of introductory courses and LeNet-5, for any input size, channels and classes."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import nn

from hubel.errors import UsageError
from hubel.nn.assembly import check_size
from hubel.nn.blocks import Down, HeadKind, conv_block, head
from hubel.nn.layers import Activation, Norm, check_name, check_positive, he_init, make_activation


def simple_cnn(
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    widths: tuple[int, ...] = (32, 64, 128),
    hidden: int | None = 256,
    dropout: float = 0.5,
    kernel: int = 3,
    norm: Norm = "batch",
    activation: Activation = "relu",
    down: Down = "max",
    repeats: int = 1,
    se: bool = False,
    head_kind: HeadKind = "flatten",
) -> nn.Sequential:
    """Three convolution blocks 32-64-128, each halving the map, and a dense head.

    620,810 parameters at (3, 32, 32) and 10 classes. The convolutions keep their biases although a batch norm follows,
    as the courses write them; 224 parameters that do nothing.

    Args:
        size: height and width of the images in pixels; the flatten head is made for it.
        repeats: convolutions in a row, of which the last one halves: two of 3x3 see as far as one of 5x5.
        se: end each convolution with a squeeze-and-excitation.
        head_kind: ``flatten`` sees every position, ``gap`` their mean.

    Raises:
        UsageError: the images are too small for that many halvings.

    >>> sum(p.numel() for p in simple_cnn(classes=10).parameters())
    620810
    """
    if not widths:
        raise UsageError("widths must name the channels of at least one block, such as (32, 64, 128).")
    check_positive("repeats", repeats)
    height, width = _after_halvings(size, 0 if down == "none" else len(widths), rounds_up=down == "stride")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    block = partial(conv_block, kernel=kernel, bias=True, norm=norm, activation=activation, se=se)
    for number, (inputs, outputs) in enumerate(zip((channels, *widths), widths, strict=False), start=1):
        for repeat in range(1, repeats):
            layers[f"block{number}_{repeat}"] = block(inputs if repeat == 1 else outputs, outputs)
        layers[f"block{number}"] = block(inputs if repeats == 1 else outputs, outputs, down=down)
    features = widths[-1] * height * width if head_kind == "flatten" else widths[-1]
    layers["head"] = head(head_kind, features, classes, hidden=hidden, dropout=dropout, activation=activation)
    return nn.Sequential(layers)


# The same blocks with global average pooling: 129,290 parameters at 3 channels and 10 classes, whatever the input size.
simple_cnn_gap = partial(simple_cnn, size=(224, 224), head_kind="gap")


def two_block(
    *,
    classes: int,
    channels: int = 1,
    size: tuple[int, int] = (28, 28),
    hidden: int | None = 128,
    dropout: float = 0.3,
    head_kind: HeadKind = "flatten",
) -> nn.Sequential:
    """Two blocks 32-64 for small grey images, with one batch norm, after the first convolution only.

    421,706 parameters at (1, 28, 28) and 10 classes. ``head_kind="gap"`` replaces flattening by global average pooling.

    >>> sum(p.numel() for p in two_block(classes=10).parameters())
    421706
    """
    height, width = _after_halvings(size, 2)
    features = 64 * height * width if head_kind == "flatten" else 64
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["block1"] = conv_block(channels, 32, bias=True, down="max")
    layers["block2"] = conv_block(32, 64, norm="none", down="max")
    layers["head"] = head(head_kind, features, classes, hidden=hidden, dropout=dropout)
    return nn.Sequential(layers)


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
    check_size("lenet5", size, 16)
    check_name("pool", pool, ("max", "average"))
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


def _after_halvings(size: tuple[int, int], halvings: int, *, rounds_up: bool = False) -> tuple[int, int]:
    """Height and width after that many 2x2 poolings (rounded down) or strides of 2 (rounded up)."""
    step = 2**halvings
    check_size(f"{halvings} halvings", size, 1 if rounds_up else step)
    height, width = (-(-n // step) if rounds_up else n // step for n in size)
    return height, width
