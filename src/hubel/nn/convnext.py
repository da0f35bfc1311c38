"""ConvNeXt: a residual network of convolutions alone, with the proportions and the norm of a transformer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from hubel.nn.assembly import Stem, check_size, check_stem
from hubel.nn.blocks import Add
from hubel.nn.layers import Activation, Norm, StochasticDepth, conv, make_activation, make_norm

DEPTHS, WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)  # ConvNeXt-Tiny
LAYER_SCALE = 1e-6  # each branch begins as almost nothing
DEVIATION = 0.02  # of the first weights


class Permute(nn.Module):
    """Reorder the axes of a tensor."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.axes))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, and two dense layers over the channels of each position, with a shortcut around.

    Shape: (N, channels, H, W) → the same. Source: Liu et al. 2022, figure 4. Keys are torchvision's, whose layer 1
    moves the channels to the end before the norm; here it comes after, so that any norm can take the place.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int = 7,
        norm: Norm = "layer",
        activation: Activation = "gelu",
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["0"] = conv(channels, channels, kernel, groups=channels, bias=True)
        layers["2"] = make_norm(norm, channels)
        layers["channels_last"] = Permute(0, 2, 3, 1)
        layers["3"] = nn.Linear(channels, 4 * channels)
        layers["4"] = make_activation(activation)
        layers["5"] = nn.Linear(4 * channels, channels)
        layers["channels_first"] = Permute(0, 3, 1, 2)
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.block = nn.Sequential(layers)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.stochastic_depth(self.layer_scale * self.block(x)))  # type: ignore[no-any-return]


def convnext_tiny(
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (224, 224),
    stem: Stem = "imagenet",
    norm: Norm = "layer",
    activation: Activation = "gelu",
    kernel: int = 7,
    stochastic_depth: float = 0.1,
) -> nn.Sequential:
    """Four stages of 3, 3, 9 and 3 blocks; between them, patches of 2x2 become one position (Liu et al. 2022).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W from 32 on, 8 with the small stem.

    Args:
        size: height and width in pixels, only to refuse images that are too small.
        stem: ``imagenet`` turns patches of 4x4 pixels into positions; ``small`` is a 3x3 convolution of stride 1, for
            images of about 32 pixels.
        kernel: of the depthwise convolutions.
        stochastic_depth: probability that the last block's branch is left out; that of the others rises to it from 0.

    Raises:
        UsageError: images so small that nothing would be left.

    >>> sum(p.numel() for p in convnext_tiny(classes=1000).parameters())
    28589128
    """
    check_stem(stem)
    check_size("ConvNeXt", size, 32 if stem == "imagenet" else 8, stem=stem)
    first = nn.Conv2d(channels, WIDTHS[0], 4, 4) if stem == "imagenet" else conv(channels, WIDTHS[0], 3, bias=True)
    layers = [nn.Sequential(first, make_norm(norm, WIDTHS[0]))]
    rates = iter(stochastic_depth * number / (sum(DEPTHS) - 1) for number in range(sum(DEPTHS)))
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        if stage > 0:
            narrow = WIDTHS[stage - 1]
            layers.append(nn.Sequential(make_norm(norm, narrow), nn.Conv2d(narrow, width, 2, 2)))
        blocks = (
            ConvNeXtBlock(width, kernel=kernel, norm=norm, activation=activation, stochastic_depth=next(rates))
            for _ in range(depth)
        )
        layers.append(nn.Sequential(*blocks))
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        features=nn.Sequential(*layers),
        avgpool=nn.AdaptiveAvgPool2d(1),
        classifier=nn.Sequential(make_norm(norm, WIDTHS[-1]), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)),
    )
    return _draw(nn.Sequential(parts))


def _draw(network: nn.Sequential) -> nn.Sequential:
    """Draw all weights from a narrow normal distribution, as the paper does, and set the biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
