"""EfficientNet B0 to B7: one small network, made deeper, wider and finer together. torchvision's keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

from torch import nn

from hubel.nn.assembly import Stem, assemble, round_channels, set_batch_norm, stem_strides
from hubel.nn.blocks import InvertedResidual, conv_block, numbered
from hubel.nn.layers import Activation, Norm, SqueezeExcitation, make_dropout

# B0's stages: expansion, kernel, stride of the first block, channels, blocks (Tan and Le 2019, table 1).
B0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much larger than B0 a network is.

    The paper's rule is depth 1.2^φ, width 1.1^φ, resolution 1.15^φ; the released networks round it freely, so their
    numbers stand here.

    Attributes:
        width: factor of the channels. depth: factor of the blocks in each stage.
        resolution: side in pixels of the images it was made for.
        dropout: before the last layer.
        eps, momentum: of the batch norms.
    """

    width: float = 1.0
    depth: float = 1.0
    resolution: int = 224
    dropout: float = 0.2
    eps: float = 1e-5
    momentum: float = 0.1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.resolution, self.resolution)

    def channels(self, channels: int) -> int:
        """Scale a number of channels of B0, to a multiple of 8."""
        return round_channels(channels * self.width)

    def blocks(self, blocks: int) -> int:
        """Scale a number of blocks of B0, rounded up."""
        return ceil(blocks * self.depth)


B0 = Scale()
B1 = Scale(width=1.0, depth=1.1, resolution=240, dropout=0.2)
B2 = Scale(width=1.1, depth=1.2, resolution=260, dropout=0.3)
B3 = Scale(width=1.2, depth=1.4, resolution=300, dropout=0.3)
B4 = Scale(width=1.4, depth=1.8, resolution=380, dropout=0.4)
B5 = Scale(width=1.6, depth=2.2, resolution=456, dropout=0.4, eps=0.001, momentum=0.01)
B6 = Scale(width=1.8, depth=2.6, resolution=528, dropout=0.5, eps=0.001, momentum=0.01)
B7 = Scale(width=2.0, depth=3.1, resolution=600, dropout=0.5, eps=0.001, momentum=0.01)


def efficientnet(
    scale: Scale,
    /,
    *,
    classes: int,
    channels: int = 3,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    activation: Activation = "silu",
    se: bool = True,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
) -> nn.Sequential:
    """Inverted residual blocks with squeeze-and-excitation in seven stages (Tan and Le 2019).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W.

    Args:
        stem: ``imagenet`` has a total stride of 32; ``small``, for images of about 32 pixels, turns the first two
            halvings into strides of 1, which makes it 8.
        se: False leaves out the squeeze-and-excitations.
        dropout: before the last layer; None is the scale's.
        stochastic_depth: probability that the last block's branch is left out; that of the others rises to it from 0.

    >>> sum(p.numel() for p in efficientnet_b0(classes=1000).parameters())
    5288548
    """
    first, *strides = stem_strides(stem, (2, *(stride for _, _, stride, _, _ in B0_STAGES)))
    total = sum(scale.blocks(blocks) for *_, blocks in B0_STAGES)
    rates = iter(stochastic_depth * number / total for number in range(total))
    inputs = scale.channels(32)
    convolution = partial(conv_block, norm=norm, activation=activation)
    layers = [numbered(convolution(channels, inputs, stride=first))]
    for (expansion, kernel, _, width, blocks), stride in zip(B0_STAGES, strides, strict=True):
        block = partial(InvertedResidual, kernel=kernel, norm=norm, activation=activation)
        stage: list[nn.Module] = []
        for number in range(scale.blocks(blocks)):
            wide, outputs = inputs * expansion, scale.channels(width)
            gate = SqueezeExcitation(wide, max(1, inputs // 4), activation=activation) if se else None
            step = stride if number == 0 else 1
            stage.append(block(inputs, wide, outputs, stride=step, gate=gate, stochastic_depth=next(rates)))
            inputs = outputs
        layers.append(nn.Sequential(*stage))
    layers.append(numbered(convolution(inputs, 4 * inputs, kernel=1)))
    rate = scale.dropout if dropout is None else dropout
    network = assemble(layers, make_dropout(rate), nn.Linear(4 * inputs, classes))
    return set_batch_norm(network, eps=scale.eps, momentum=scale.momentum)


# Parameters at 1000 classes: 5,288,548, 7,794,184, 9,109,994, 12,233,232, 19,341,616, 30,389,784, 43,040,704 and
# 66,347,960.
efficientnet_b0 = partial(efficientnet, B0)
efficientnet_b1 = partial(efficientnet, B1)
efficientnet_b2 = partial(efficientnet, B2)
efficientnet_b3 = partial(efficientnet, B3)
efficientnet_b4 = partial(efficientnet, B4)
efficientnet_b5 = partial(efficientnet, B5)
efficientnet_b6 = partial(efficientnet, B6)
efficientnet_b7 = partial(efficientnet, B7)
