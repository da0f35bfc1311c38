"""MobileNets: V1 replaces convolutions by depthwise separable ones, V2 and V3 turn the residual block inside out.

V2 and V3 have torchvision's keys. Shape: (N, channels, H, W) → logits (N, classes), for any H and W.

Their stem is ``imagenet``, a total stride of 32, or ``small`` for images of about 32 pixels: the first two halvings
become strides of 1, which makes the total stride 8. `multiplier` scales the channels of all layers.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hubel.nn.assembly import Stem, assemble, round_channels, set_batch_norm, stem_strides
from hubel.nn.blocks import InvertedResidual, conv_block, depthwise_separable, numbered
from hubel.nn.layers import Activation, Norm, SqueezeExcitation, he_init, make_activation, make_dropout

# Channels and stride of each separable convolution (Howard et al. 2017, table 1; the last stride of 2 there is a slip,
# the map stays 7x7).
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

# Expansion, channels, repetitions, stride of the first (Sandler et al. 2018, table 2).
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

# Kernel, expanded channels, channels, whether it has squeeze-and-excitation, whether its activation is the deep one,
# stride (Howard et al. 2019, tables 1 and 2).
V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    *((5, 120, 40, True, False, 1),) * 2,
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    *((3, 184, 80, False, True, 1),) * 2,
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    *((5, 960, 160, True, True, 1),) * 2,
)
V3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    *((5, 240, 40, True, True, 1),) * 2,
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    *((5, 576, 96, True, True, 1),) * 2,
)


def mobilenet_v1(
    *,
    classes: int,
    channels: int = 3,
    multiplier: float = 1.0,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    activation: Activation = "relu",
    kernel: int = 3,
    separable: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Thirteen depthwise separable convolutions (Howard et al. 2017).

    4.2 million parameters and 569 million multiply-accumulates at 224x224 and 1000 classes.

    Args:
        kernel: of the depthwise convolutions.
        separable: False makes them standard convolutions: 4,866 million multiply-accumulates.

    >>> sum(p.numel() for p in mobilenet_v1(classes=1000).parameters())
    4231976
    """
    block = partial(depthwise_separable if separable else conv_block, kernel=kernel, norm=norm, activation=activation)
    first, *strides = stem_strides(stem, (2, *(stride for _, stride in V1)))
    inputs = round_channels(32 * multiplier)
    layers = [conv_block(channels, inputs, stride=first, norm=norm, activation=activation)]
    for (width, _), stride in zip(V1, strides, strict=True):
        outputs = round_channels(width * multiplier)
        layers.append(block(inputs, outputs, stride=stride))
        inputs = outputs
    return assemble(layers, make_dropout(dropout), nn.Linear(inputs, classes))


def mobilenet_v2(
    *,
    classes: int,
    channels: int = 3,
    multiplier: float = 1.0,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    activation: Activation = "relu6",
    kernel: int = 3,
    dropout: float = 0.2,
) -> nn.Sequential:
    """Seventeen inverted residual blocks with linear bottlenecks (Sandler et al. 2018).

    Args:
        kernel: of the depthwise convolutions.

    >>> sum(p.numel() for p in mobilenet_v2(classes=1000).parameters())
    3504872
    """
    rows = [(t, c, s if i == 0 else 1) for t, c, repeats, s in V2 for i in range(repeats)]
    first, *strides = stem_strides(stem, (2, *(stride for *_, stride in rows)))
    inputs, last = round_channels(32 * multiplier), round_channels(1280 * max(1.0, multiplier))
    convolution = partial(conv_block, norm=norm, activation=activation)
    layers: list[nn.Module] = [numbered(convolution(channels, inputs, stride=first))]
    block = partial(InvertedResidual, kernel=kernel, norm=norm, activation=activation, key="conv")
    for (expansion, width, _), stride in zip(rows, strides, strict=True):
        outputs = round_channels(width * multiplier)
        layers.append(block(inputs, inputs * expansion, outputs, stride=stride))
        inputs = outputs
    layers.append(numbered(convolution(inputs, last, kernel=1)))
    return assemble(layers, make_dropout(dropout), nn.Linear(last, classes))


def mobilenet_v3(
    rows: tuple[tuple[int, int, int, bool, bool, int], ...],
    hidden: int,
    /,
    *,
    classes: int,
    channels: int = 3,
    multiplier: float = 1.0,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    activation: Activation = "hardswish",
    se: bool = True,
    dropout: float = 0.2,
) -> nn.Sequential:
    """Inverted residual blocks that a search chose, with squeeze-and-excitation (Howard et al. 2019).

    Args:
        rows: one for each block, as in `V3_LARGE`. hidden: width of the dense layer before the last.
        activation: of the deeper blocks and the ends; the early blocks have ReLU.
        se: False leaves out the squeeze-and-excitations.
    """
    first, *strides = stem_strides(stem, (2, *(stride for *_, stride in rows)))
    inputs, hidden = round_channels(16 * multiplier), round_channels(hidden * multiplier)
    convolution = partial(conv_block, norm=norm, activation=activation)
    layers: list[nn.Module] = [numbered(convolution(channels, inputs, stride=first))]
    for (kernel, wide, width, gated, deep, _), stride in zip(rows, strides, strict=True):
        expanded, outputs = round_channels(wide * multiplier), round_channels(width * multiplier)
        gate = SqueezeExcitation(expanded, round_channels(expanded // 4), gate="hardsigmoid") if se and gated else None
        act: Activation = activation if deep else "relu"
        block = partial(InvertedResidual, kernel=kernel, stride=stride, norm=norm, activation=act, gate=gate)
        layers.append(block(inputs, expanded, outputs))
        inputs = outputs
    layers.append(numbered(convolution(inputs, 6 * inputs, kernel=1)))
    dense = he_init(nn.Linear(6 * inputs, hidden))
    head = (dense, make_activation(activation), make_dropout(dropout), nn.Linear(hidden, classes))
    return set_batch_norm(assemble(layers, *head), eps=0.001, momentum=0.01)


# Parameters at 1000 classes: 2,542,856 and 5,483,032.
mobilenet_v3_small = partial(mobilenet_v3, V3_SMALL, 1024)
mobilenet_v3_large = partial(mobilenet_v3, V3_LARGE, 1280)
