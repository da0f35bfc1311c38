"""Convolutions of small maps, laid out so that a processor with matrix units (AMX) computes them fast.

oneDNN's kernels go along the rows of a map, 32 positions at a time in the gradient of the filters: maps that are 7 wide
leave three quarters of a matrix unit empty. Images are therefore laid side by side, with zeros between them, and
convolved as one wide map; filters on maps up to 4 wide get their gradient as a product of patches. Measured on such a
processor in bfloat16: the gradient of 256×256 filters takes 10 instead of 20 ms on 250 maps of 7×7 (5.8 at the speed of
a plain matrix product), that of 512×512 filters 3 instead of 20 ms on 64 maps of 4×4. With less than 128 channels, or
on maps that are more than 12 wide, nothing is gained. Filters of 1×1 that skip pixels, as in the shortcuts of residual
networks, are a matrix product on the others: 64 maps of 128 channels take 1.4 instead of 2.3 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.learning.kernels.gradients import patch_gradient, plain_gradient

CHANNELS = 128  # of the input: with fewer, copying costs more than is gained
NARROW = 12  # positions in a row of the output: the filters' gradient is computed on strips of images up to here,
TINY = 5  # the output and the image's gradient too up to here,
TINIEST = 4  # and the filters' gradient is a product of patches
STRIP = 32  # positions in a row of a strip: what a matrix unit adds up at once
SKIPPING = 64  # channels from which 1×1 filters that skip pixels are a product


def kernel_for(image: Tensor, weight: Tensor, stride: int, padding: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what convolves an image with those filters faster than oneDNN; None where nothing does."""
    channels, height, width = weight.shape[1:]
    if height == width == 1 and padding == 0 and stride > 1 and channels >= SKIPPING:
        return partial(_skipping, stride=stride)
    small = channels >= CHANNELS and -(-image.shape[3] // stride) <= NARROW
    if height == width == 2 * padding + 1 > 1 and small:
        return lambda image, weight: SmallConvolution.apply(image, weight, stride, padding)
    return None


def _skipping(image: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve (N, C, H, W) with filters (K, C, 1, 1)."""
    seen = image.permute(0, 2, 3, 1)[:, ::stride, ::stride]  # in this order, the image's gradient is channels-last, too
    return (seen @ weight.flatten(1).T).permute(0, 3, 1, 2)


class SmallConvolution(torch.autograd.Function):
    """A convolution (N, C, H, W) → (N, K, H', W') with filters (K, C, 2p+1, 2p+1) and zeros p wide round the image."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """Convolve; tiny maps in strips."""
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        width = -(-image.shape[3] // stride)
        if width > TINY:
            return F.conv2d(image, weight, None, stride, padding)
        slot = _slot(image, stride, padding)
        found = F.conv2d(_strips(image, stride * slot, slot), weight, None, stride, padding)
        return _apart(found, len(image), slot, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Return the gradients of image and filters."""
        image, weight = ctx.saved_tensors
        stride, padding, width = ctx.stride, ctx.padding, gradient.shape[3]
        slot = _slot(image, stride, padding)
        side_by_side = _strips(gradient, slot, slot)
        if width <= TINIEST:
            to_weight = patch_gradient(gradient, image, weight, stride, padding)
        else:
            strips = _strips(image, stride * slot, slot)
            to_weight = plain_gradient(side_by_side, strips, weight, stride, padding, of_image=False)
        to_image: Tensor | None = None
        if ctx.needs_input_grad[0] and width <= TINY:
            shape = (len(side_by_side), *image.shape[1:3], stride * side_by_side.shape[3])
            strips = torch.empty(shape, dtype=image.dtype, memory_format=torch.channels_last)  # only its shape counts
            to_image = plain_gradient(side_by_side, strips, weight, stride, padding, of_image=True)
            to_image = _apart(to_image, len(image), stride * slot, image.shape[3])
        elif ctx.needs_input_grad[0]:
            to_image = plain_gradient(gradient, image, weight, stride, padding, of_image=True)
        return to_image, to_weight, None, None


def _slot(image: Tensor, stride: int, padding: int) -> int:
    """Positions that an image takes in a strip of outputs: with the zeros that keep it apart from the next one."""
    return -(-(image.shape[3] + padding) // stride)


def _strips(maps: Tensor, slot: int, outputs: int) -> Tensor:
    """(N, C, H, W) → (N', C, H, W'), images side by side in channels-last order.

    Args:
        slot: positions of each, zeros included. outputs: that become of them, which decide how many make a strip.
    """
    count, channels, height, width = maps.shape
    each = max(1, min(STRIP // outputs, count))
    whole, rest = divmod(count, each)
    strips = maps.new_zeros(whole + bool(rest), height, each, slot, channels)
    pixels = maps.permute(0, 2, 3, 1)
    strips[:whole, :, :, :width].transpose(1, 2).copy_(pixels[: whole * each].unflatten(0, (whole, each)))
    if rest:
        strips[whole, :, :rest, :width].transpose(0, 1).copy_(pixels[whole * each :])
    return strips.flatten(2, 3).permute(0, 3, 1, 2)


def _apart(strips: Tensor, count: int, slot: int, width: int) -> Tensor:
    """Undo `_strips`: (N', C, H, W') → (count, C, H, width)."""
    maps: Tensor = strips.permute(0, 2, 3, 1).unflatten(2, (-1, slot))
    maps = maps[:, :, :, :width]
    return maps.transpose(1, 2).flatten(0, 1)[:count].permute(0, 3, 1, 2)
