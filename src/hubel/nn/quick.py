"""`quick` and `speed`: small networks that learn much in few minutes on a processor, for any image size.

A first layer that whitens patches of the training data, three stages that halve the map, and a global maximum. The idea
of whitening, of pooling right after the first convolution of a stage, of identity initialisation and of a small logit
scale comes from Page (2018) and Jordan (2024).

`speed` has Jordan's widths, and may judge an image by the mean of its own logits, its mirror image's and those of both
moved by a pixel.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.layers import Activation, Norm, make_activation, make_norm

SMALLEST = 8  # pixels; less can't be halved three times
MAP = 32  # the stem's stride brings larger images near this side: the stages cost the same at any image size
FEATURES = 48  # of the stem: principal patches and their negatives
PATCHES = 200_000  # that the stem is whitened with, about
LOGIT_SCALE = 1 / 9
EPSILON = 5e-4  # added to the variances before whitening: patches of hardly any variance stay small


class Stage(nn.Module):
    """conv - max pool - norm - activation - conv - norm - activation: (N, C, H, W) → (N, K, H/2, W/2)."""

    def __init__(self, channels: int, width: int, norm: Norm = "batch", activation: Activation = "relu") -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        self.norm1 = make_norm(norm, width)
        self.act1 = make_activation(activation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2 = make_norm(norm, width)
        self.act2 = make_activation(activation)
        for conv in (self.conv1, self.conv2):  # the first filters pass their input on, the others are random
            with torch.no_grad():
                nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = self.act1(self.norm1(x))
        maps: Tensor = self.act2(self.norm2(self.conv2(x)))
        return maps


class Quick(nn.Module):
    """(N, channels, H, W) → (N, classes) logits, for sides near the one it was built for.

    Args:
        size: of the images, in pixels; decides the stem's stride. widths: channels of the three stages.
        norm: of the stages. activation: of the stem and after each norm; GELU learns more from an image in long
            trainings.
        mirror: outside of training, add the mirror image's logits: twice the work, and better by about a point.
        moved: outside of training, the image moved by a pixel either way along the diagonal counts for half: three
            times the work, with `mirror` six passes.
        fixed: leave the stem's filters as `prepare` set them, which Muon, making all filters equally large, would undo.

    Raises:
        UsageError: images of less than 8 pixels can't be halved three times.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: tuple[int, int],
        widths: tuple[int, int, int],
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        mirror: bool = False,
        moved: bool = False,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        if min(size) < SMALLEST:
            raise UsageError(
                "The networks quick and speed need images of at least "
                f"{SMALLEST}×{SMALLEST} pixels, not {size[0]}×{size[1]}: raise --size."
            )
        self.mirror, self.moved, self.fixed = mirror, moved, fixed
        stride = max(1, round(max(size) / MAP))
        kernel = max(stride, 3 if channels == 1 else 2)  # a grey patch of four pixels says little
        features = min(FEATURES, 2 * channels * kernel * kernel)
        self.stem = nn.Conv2d(channels, features, kernel, stride, padding=0)
        self.act = make_activation(activation)
        pairs = itertools.pairwise((features, *widths))
        self.stages = nn.Sequential(*(Stage(inputs, width, norm, activation) for inputs, width in pairs))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes, bias=False)

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the stem to the principal patches of `images` (N, C, S, S), at unit variance, and their negatives."""
        kernel, half = self.stem.kernel_size[0], self.stem.out_channels // 2
        each = max(PATCHES / len(images), 1)  # of an image, from a grid as wide as that allows
        stride = max(kernel // 2, int((min(images.shape[2:]) - kernel) / each**0.5)) | 1  # odd: JPEG's blocks are even
        patches = F.unfold(images, kernel, stride=stride).transpose(1, 2).flatten(0, 1)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variances + EPSILON).sqrt()).T.flip(0)[:half]
        self.stem.weight.copy_(torch.cat((filters, -filters)).view_as(self.stem.weight))
        self.stem.weight.requires_grad_(not self.fixed)
        assert self.stem.bias is not None
        self.stem.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self._logits(x)
        if self.moved:
            wider = F.pad(x, (1, 1, 1, 1), mode="reflect")
            moved = (self._seen(wider[:, :, :-2, :-2]) + self._seen(wider[:, :, 2:, 2:])) / 2
            return (moved + self._seen(x)) / 2
        return self._seen(x)

    def _seen(self, x: Tensor) -> Tensor:
        """Logits, with those of the mirror images where wanted; the pass that hooks should keep comes last."""
        if not self.mirror:
            return self._logits(x)
        mirrored = self._logits(x.flip(3))
        return (self._logits(x) + mirrored) / 2

    def _logits(self, x: Tensor) -> Tensor:
        x = self.stages(self.act(self.stem(x)))
        logits: Tensor = self.head(self.dropout(x.amax((2, 3)))) * LOGIT_SCALE
        return logits


def quick(
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    width: int = 32,
    norm: Norm = "batch",
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> Quick:
    """Build the network for images of about `size` pixels; each stage is twice as wide as the one before.

    Args:
        width: channels of the first stage. norm: of the stages. activation: of the stem and after each norm.
    """
    return Quick(
        classes=classes,
        channels=channels,
        size=size,
        widths=(width, 2 * width, 4 * width),
        norm=norm,
        activation=activation,
        dropout=dropout,
    )


def speed(
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    width: int = 64,
    norm: Norm = "batch",
    activation: Activation = "relu",
    mirror: bool = False,
    moved: bool = False,
) -> Quick:
    """Build Jordan's (2024) proportions: both later stages are four times as wide as the first.

    Args:
        width: channels of the first stage. The others are those of `Quick`.
    """
    return Quick(
        classes=classes,
        channels=channels,
        size=size,
        widths=(width, 4 * width, 4 * width),
        norm=norm,
        activation=activation,
        mirror=mirror,
        moved=moved,
        fixed=True,
    )
