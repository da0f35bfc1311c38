"""VGG: nothing but 3x3 convolutions and pooling, and most of the parameters in the head. torchvision's keys."""

from __future__ import annotations

from functools import partial

from torch import nn

from hubel.nn.assembly import Stem, assemble, check_size, check_stem
from hubel.nn.blocks import Down, conv_block
from hubel.nn.layers import Activation, Norm, he_init, make_activation, make_dropout

WIDTHS, DENSE = (64, 128, 256, 512, 512), 4096  # channels of the stages; width of the dense layers
DEPTHS = {  # convolutions in each stage; the name counts the layers with weights
    "vgg11": (1, 1, 2, 2, 2),  # 132,863,336 parameters at 1000 classes; batch norms add 5,504
    "vgg13": (2, 2, 2, 2, 2),  # 133,047,848 and 5,888
    "vgg16": (2, 2, 3, 3, 3),  # 138,357,544 and 8,448
    "vgg19": (2, 2, 4, 4, 4),  # 143,667,240 and 11,008
}


def vgg(
    depths: tuple[int, int, int, int, int],
    /,
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (224, 224),
    stem: Stem = "imagenet",
    norm: Norm = "none",
    activation: Activation = "relu",
    kernel: int = 3,
    down: Down = "max",
    se: bool = False,
    dropout: float = 0.5,
) -> nn.Sequential:
    """Five stages of convolutions, each ending in a halving, and three dense layers (Simonyan and Zisserman 2015).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W from 32 on, 16 with the small stem. The
    convolutions keep their biases beside a norm, as torchvision has them.

    Args:
        depths: as in `DEPTHS`.
        size: height and width in pixels, only to refuse images that are too small.
        stem: ``imagenet`` brings the last map to 7x7 for the dense layers. ``small``, for images of about 32 pixels,
            leaves out the first halving and gives the dense layers the mean over the map.
        down: how a stage halves its map. se: end each convolution with a squeeze-and-excitation.
        dropout: before the second and the third dense layer.

    Raises:
        UsageError: images so small that nothing would be left.

    >>> vgg(DEPTHS["vgg11"], classes=10, stem="small", size=(32, 32)).classifier[0].in_features
    512
    """
    check_stem(stem)
    if down in ("max", "average"):
        check_size("VGG", size, 32 if stem == "imagenet" else 16, stem=stem)
    block = partial(conv_block, kernel=kernel, bias=True, norm=norm, activation=activation, se=se)
    layers: list[nn.Module] = []
    inputs = channels
    for stage, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
        for number in range(depth):
            halves = number == depth - 1 and (stem == "imagenet" or stage > 0)
            layers += block(inputs, width, down=down if halves else "none")
            inputs = width
    side = 7 if stem == "imagenet" else 1
    classifier: list[nn.Module] = []
    for features in (WIDTHS[-1] * side * side, DENSE):
        classifier += he_init(nn.Linear(features, DENSE)), make_activation(activation), make_dropout(dropout)
    return assemble(layers, *classifier, nn.Linear(DENSE, classes), side=side)
