"""`quick` and `speed`: small networks that learn much in few minutes on a processor, for any image size.

A first layer that whitens patches of the training data, three stages that halve the map, and a global maximum. The idea
of whitening, of pooling right after the first convolution of a stage, of identity initialisation and of a small logit
scale comes from Page (2018) and Jordan (2024).

`speed` has Jordan's widths, and may judge an image by the mean of its own logits, its mirror image's and those of both
moved by a pixel.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.nn.assembly import check_size
from hubel.nn.layers import Activation, Norm, make_activation, make_dropout, make_norm

SMALLEST = 8  # pixels; less can't be halved three times
MAP = 32  # the stem's stride brings larger images near this side: the stages cost the same at any image size
FEATURES = 48  # of the stem: principal patches and their negatives
PATCHES = 200_000  # that the stem is whitened with, about
COARSE = 16  # pixels of a patch's side, at most: from there on, covariances take minutes
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
        size: height and width of the images in pixels; decides the stem's stride.
        width: channels of the first stage. growth: how many times as wide the other two are.
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
        channels: int = 3,
        size: tuple[int, int] = (32, 32),
        width: int = 32,
        growth: tuple[int, int] = (2, 4),
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        mirror: bool = False,
        moved: bool = False,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        check_size("quick and speed", size, SMALLEST)
        self.mirror, self.moved, self.fixed = mirror, moved, fixed
        stride = max(1, round(max(size) / MAP))
        kernel = max(stride, 3 if channels == 1 else 2)  # a grey patch of four pixels says little
        features = min(FEATURES, 2 * channels * kernel * kernel)
        padding = int((min(size) - kernel) // stride + 1 < SMALLEST)
        self.stem = nn.Conv2d(channels, features, kernel, stride, padding)
        self.act = make_activation(activation)
        pairs = itertools.pairwise((features, width, width * growth[0], width * growth[1]))
        self.stages = nn.Sequential(*(Stage(inputs, outputs, norm, activation) for inputs, outputs in pairs))
        self.dropout = make_dropout(dropout)
        self.head = nn.Linear(width * growth[1], classes, bias=False)

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the stem to the principal patches of `images` (N, C, S, S), at unit variance, and their negatives."""
        side, half = self.stem.kernel_size[0], self.stem.out_channels // 2
        reduced = -(-side // COARSE)  # patches of large images are looked at in less detail
        images, kernel = F.avg_pool2d(images, reduced), side // reduced
        each = max(PATCHES / len(images), 1)  # of an image, from a grid as wide as that allows
        stride = max(kernel // 2, int((min(images.shape[2:]) - kernel) / each**0.5)) | 1  # odd: JPEG's blocks are even
        patches = F.unfold(images, kernel, stride=stride).transpose(1, 2).flatten(0, 1)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variances + EPSILON).sqrt()).T.flip(0)[:half]
        filters = filters.view(half, -1, kernel, kernel)
        if reduced > 1:
            filters = F.interpolate(filters, side) * (kernel / side) ** 2
        self.stem.weight.copy_(torch.cat((filters, -filters)))
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


quick = Quick
speed = partial(Quick, width=64, growth=(4, 4), fixed=True)  # Jordan's (2024) proportions
