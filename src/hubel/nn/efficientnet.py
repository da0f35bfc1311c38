"""EfficientNet B0 to B7, and Lite 0 to 4 for processors: one small network, made deeper, wider and finer together.

B0 to B7 have torchvision's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

from torch import nn

from hubel.nn.assembly import Stem, assemble, round_channels, set_batch_norm, stem_strides
from hubel.nn.blocks import InvertedResidual, conv_block, numbered
from hubel.nn.layers import Activation, Norm, SqueezeExcitation, make_dropout

# B0's stages: expansion, kernel, stride of the first block, channels, blocks (Tan and Le 2019, table 1).
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM, LAST = 32, 1280  # channels of B0's first and last convolution


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much larger than B0 a network is.

    The paper's rule is depth 1.2^φ, width 1.1^φ, resolution 1.15^φ; the released networks round it freely, so their
    numbers stand here.

    Attributes:
        width: factor of the channels. depth: factor of the blocks in each stage.
        resolution: side in pixels of the images it was made for. dropout: before the last layer.
        eps, momentum: of the batch norms.
        lite: Google's Lite networks (2020), which phones and processors compute fast: no squeeze-and-excitation, ReLU6,
            strides padded as in TensorFlow; the ends keep B0's width and depth.
    """

    width: float = 1.0
    depth: float = 1.0
    resolution: int = 224
    dropout: float = 0.2
    eps: float = 1e-5
    momentum: float = 0.1
    lite: bool = False

    def channels(self, channels: int, *, end: bool = False) -> int:
        """Scale a number of channels of B0, to a multiple of 8; `end`: of the first or the last convolution."""
        return channels if end and self.lite else round_channels(channels * self.width)

    def blocks(self, stage: int) -> int:
        """Scale B0's number of blocks in a stage, rounded up."""
        blocks = STAGES[stage][-1]
        return blocks if self.lite and stage in (0, len(STAGES) - 1) else ceil(blocks * self.depth)


LARGE = partial(Scale, eps=0.001, momentum=0.01)
LITE = partial(LARGE, lite=True)

# Millions of parameters at 1000 classes: 5.3, 7.8, 9.1, 12.2, 19.3, 30.4, 43.0 and 66.3; Lite 4.7, 5.4, 6.1, 8.2, 13.0.
SCALES = {
    "efficientnet_b0": Scale(),
    "efficientnet_b1": Scale(depth=1.1, resolution=240),
    "efficientnet_b2": Scale(width=1.1, depth=1.2, resolution=260, dropout=0.3),
    "efficientnet_b3": Scale(width=1.2, depth=1.4, resolution=300, dropout=0.3),
    "efficientnet_b4": Scale(width=1.4, depth=1.8, resolution=380, dropout=0.4),
    "efficientnet_b5": LARGE(width=1.6, depth=2.2, resolution=456, dropout=0.4),
    "efficientnet_b6": LARGE(width=1.8, depth=2.6, resolution=528, dropout=0.5),
    "efficientnet_b7": LARGE(width=2.0, depth=3.1, resolution=600, dropout=0.5),
    "efficientnet_lite0": LITE(),
    "efficientnet_lite1": LITE(depth=1.1, resolution=240),
    "efficientnet_lite2": LITE(width=1.1, depth=1.2, resolution=260, dropout=0.3),
    "efficientnet_lite3": LITE(width=1.2, depth=1.4, resolution=280, dropout=0.3),
    "efficientnet_lite4": LITE(width=1.4, depth=1.8, resolution=300, dropout=0.3),
}


def efficientnet(
    scale: Scale,
    /,
    *,
    classes: int,
    channels: int = 3,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    activation: Activation | None = None,
    se: bool | None = None,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
) -> nn.Sequential:
    """Inverted residual blocks with squeeze-and-excitation in seven stages (Tan and Le 2019).

    Shape: (N, channels, H, W) → logits (N, classes), for any H and W.

    Args:
        stem: ``imagenet`` has a total stride of 32; ``small``, for images of about 32 pixels, turns the first two
            halvings into strides of 1, which makes it 8.
        activation: None is SiLU, ReLU6 in the Lite networks.
        se: whether there are squeeze-and-excitations; None is where they were published with them.
        dropout: before the last layer; None is the scale's.
        stochastic_depth: probability that the last block's branch is left out; that of the others rises to it from 0.

    >>> sum(p.numel() for p in efficientnet(SCALES["efficientnet_b0"], classes=1000).parameters())
    5288548
    """
    activation = activation or ("relu6" if scale.lite else "silu")
    gated = not scale.lite if se is None else se
    first, *strides = stem_strides(stem, (2, *(stride for _, _, stride, _, _ in STAGES)))
    total = sum(map(scale.blocks, range(len(STAGES))))
    rates = iter(stochastic_depth * number / total for number in range(total))
    inputs, last = scale.channels(STEM, end=True), scale.channels(LAST, end=True)
    convolution = partial(conv_block, norm=norm, activation=activation, same=scale.lite)
    layers = [numbered(convolution(channels, inputs, stride=first))]
    for stage, (expansion, kernel, _, width, _) in enumerate(STAGES):
        block = partial(InvertedResidual, kernel=kernel, norm=norm, activation=activation, same=scale.lite)
        blocks: list[nn.Module] = []
        for number in range(scale.blocks(stage)):
            wide, outputs = inputs * expansion, scale.channels(width)
            gate = SqueezeExcitation(wide, max(1, inputs // 4), activation=activation) if gated else None
            step = strides[stage] if number == 0 else 1
            blocks.append(block(inputs, wide, outputs, stride=step, gate=gate, stochastic_depth=next(rates)))
            inputs = outputs
        layers.append(nn.Sequential(*blocks))
    layers.append(numbered(convolution(inputs, last, kernel=1)))
    rate = scale.dropout if dropout is None else dropout
    network = assemble(layers, make_dropout(rate), nn.Linear(last, classes))
    return set_batch_norm(network, eps=scale.eps, momentum=scale.momentum)
