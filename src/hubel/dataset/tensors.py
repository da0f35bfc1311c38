"""Between stored pixels and what a network sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.errors import UsageError
from hubel.records import Preprocess


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """(N, H, W, C) uint8 → (N, C, H, W) uint8, a view in channels-last order.

    Memory is shared where torch allows it: an array that is read-only (a memory map) or runs backwards is copied.

    Raises:
        UsageError: not four axes of uint8.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UsageError(f"expected images (N, H, W, C) of uint8, got {images.shape} of {images.dtype}.")
    pixels = np.ascontiguousarray(images)
    if not pixels.flags.writeable:
        pixels = np.array(pixels)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def smaller(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) uint8 → (N, C, side, side) uint8, antialiased."""
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round_().byte()


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """(N, C, H, W) uint8, or float in [0, 1] → (x / 255 - mean) / std, channel by channel, in the same layout.

    The result is float32, but for bfloat16, which stays.

    Raises:
        UsageError: another number of channels than `preprocess` has means for.
    """
    channels = images.shape[1]
    if not channels == len(preprocess.mean) == len(preprocess.std):
        raise UsageError(
            f"the images have {channels} channels, but the preprocessing {len(preprocess.mean)} means and "
            f"{len(preprocess.std)} standard deviations: decode the images with {len(preprocess.mean)} channels."
        )
    mean, std = torch.tensor([preprocess.mean, preprocess.std], device=images.device, dtype=torch.float32)
    interleaved = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    if interleaved:  # as rows of W·C values: long enough for the processor's vectors
        x = images.permute(0, 2, 3, 1).flatten(2)
        mean, std = mean.repeat(images.shape[3]), std.repeat(images.shape[3])
    else:
        x, mean, std = images, mean.view(-1, 1, 1), std.view(-1, 1, 1)
    if images.dtype == torch.bfloat16:
        x = (x - mean.bfloat16()).mul_((1 / std).bfloat16())
    else:
        full = 1.0 if images.is_floating_point() else 255.0
        x = (x * (1 / (full * std))).sub_(mean / std)
    result: Tensor = x.unflatten(2, (-1, channels)).permute(0, 3, 1, 2) if interleaved else x
    return result
