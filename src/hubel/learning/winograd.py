"""Convolutions with 3×3 filters in a quarter of the multiplications, for processors that train in float32.

An image is cut into tiles of 6×6 pixels that overlap by two. Tiles and filters are transformed, multiplied point by
point, summed over the channels, and transformed to 4×4 outputs: 36 multiplications where plain sums take 144 (Winograd
1980; Lavin and Gray 2016, F(4×4, 3×3)). The sums over channels are 36 matrix products, the transforms one small product
a tile. The image's gradient is such a convolution of the outputs' with the filters turned round; the filters' gradient
takes the same road backwards. Rounding in float32 is two to five times that of plain sums: 2e-6 of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.learning.strips import plain_gradient

TILE, OUTPUTS, FILTER = 6, 4, 3  # pixels a side of a tile, of what becomes of it, and of a filter
LEAST = 64  # channels on both sides from which the filters' gradient is faster,
EVERYTHING = 128  # and from which output and image's gradient are, too
WASTE = 1.4  # pixels in all tiles for one of the output, at most
AT_ONCE, FEWEST = 16_384, 128  # tiles times channels that are transformed together, to stay in the cache; and tiles


class WinogradConvolution(torch.autograd.Function):
    """A convolution (N, C, H, W) → (N, K, H, W) with filters (K, C, 3, 3), stride 1 and zeros round the image."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(image, weight)
        if min(weight.shape[:2]) < EVERYTHING:
            return F.conv2d(image, weight, None, 1, 1)
        return _convolved(image, _filter_points(weight).mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the gradients of image and filters."""
        image, weight = ctx.saved_tensors
        to_image: Tensor | None = None
        if ctx.needs_input_grad[0] and min(weight.shape[:2]) < EVERYTHING:
            to_image = plain_gradient(gradient, image, weight, 1, 1, of_image=True)
        elif ctx.needs_input_grad[0]:
            to_image = _convolved(gradient, _filter_points(weight.flip(2, 3)))
        return to_image, _filter_gradient(image, gradient)


def road(image: Tensor, weight: Tensor, stride: int, padding: int) -> Callable[..., Tensor] | None:
    """What convolves an image with those filters faster than oneDNN does; None where nothing does."""
    filters, channels, *kernel = weight.shape
    height, width = image.shape[2:]
    if (*kernel, stride, padding) != (FILTER, FILTER, 1, 1) or min(filters, channels) < LEAST:
        return None
    wasteful = _tiles(height) * _tiles(width) * OUTPUTS**2 > WASTE * height * width
    fitting = image.is_contiguous(memory_format=torch.channels_last) and not wasteful
    return WinogradConvolution.apply if fitting else None


def _convolved(image: Tensor, filters: Tensor) -> Tensor:
    """(N, C, H, W) and the filters' points (36, C, K) → (N, K, H, W), channels last."""
    height, width = image.shape[2:]
    down, across, kinds = _tiles(height), _tiles(width), filters.shape[2]
    pixels = image.permute(0, 2, 3, 1)
    maps = image.new_empty(len(image), OUTPUTS * down, OUTPUTS * across, kinds)
    each = _together(max(filters.shape[1:]), down * across)
    for points, found in zip(_points(pixels, each), maps.split(each), strict=True):
        outputs = _each(_transforms(image.dtype)[2], (points @ filters).transpose(0, 1))
        tiles = outputs.view(-1, down, across, OUTPUTS, OUTPUTS, kinds).transpose(2, 3)
        found.unflatten(1, (down, OUTPUTS)).unflatten(3, (across, OUTPUTS)).copy_(tiles)
    return maps[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _filter_gradient(image: Tensor, gradient: Tensor) -> Tensor:
    """(N, C, H, W) and the outputs' gradient (N, K, H, W) → (K, C, 3, 3), channels last."""
    pixels, slopes = image.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    height, width, filters = slopes.shape[1:]
    down, across = _tiles(height), _tiles(width)
    if (height, width) != (OUTPUTS * down, OUTPUTS * across):
        slopes = F.pad(slopes, (0, 0, 0, OUTPUTS * across - width, 0, OUTPUTS * down - height))
    _, of_filters, of_outputs = _transforms(image.dtype)
    found = image.new_empty(TILE**2, filters, image.shape[1])
    each = _together(max(found.shape[1:]), down * across)
    for number, (points, theirs) in enumerate(zip(_points(pixels, each), slopes.split(each), strict=True)):
        tiles = theirs.unflatten(1, (down, OUTPUTS)).unflatten(3, (across, OUTPUTS)).transpose(2, 3)
        spread = _each(of_outputs.mT, tiles.reshape(-1, OUTPUTS**2, filters))
        found.baddbmm_(spread.permute(1, 2, 0), points, beta=min(number, 1))
    return _each(of_filters.mT, found.transpose(0, 1)).view(filters, FILTER, FILTER, -1).permute(0, 3, 1, 2)


def _points(pixels: Tensor, each: int) -> Iterator[Tensor]:
    """(N, H, W, C) → (36, tiles, C), of `each` images at a time."""
    count, height, width, channels = pixels.shape
    down, across = OUTPUTS * _tiles(height) + 2, OUTPUTS * _tiles(width) + 2
    padded = pixels.new_zeros(min(each, count), down, across, channels)
    for some in pixels.split(each):
        within = padded[: len(some)]  # its borders stay zero
        within[:, 1 : height + 1, 1 : width + 1] = some
        tiles = within.unfold(1, TILE, OUTPUTS).unfold(2, TILE, OUTPUTS)
        tiles = tiles.permute(0, 1, 2, 4, 5, 3).reshape(-1, TILE**2, channels)
        yield _each(_transforms(pixels.dtype)[0], tiles).transpose(0, 1)


def _filter_points(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) → (36, K, C)."""
    return _each(_transforms(weight.dtype)[1], weight.permute(0, 2, 3, 1).flatten(1, 2)).transpose(0, 1)


def _each(transform: Tensor, of: Tensor) -> Tensor:
    """(P, Q) and (N, Q, C) → (N, P, C): small products that stay in the cache."""
    return torch.bmm(transform.expand(len(of), -1, -1), of)


def _tiles(length: int) -> int:
    return -(-length // OUTPUTS)


def _together(channels: int, tiles: int) -> int:
    """How many images are transformed at once."""
    return max(1, max(FEWEST, AT_ONCE // channels) // tiles)


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of tiles (36, 36), of filters (36, 9) and of sums to outputs (16, 36), along both axes at once.

    They interpolate a polynomial at 0, 1, -1, 2, -2 and infinity.
    """
    tiles = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    filters = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # over 24
    outputs = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    of_tiles, of_filters, of_outputs = (torch.tensor(m, dtype=torch.float64) for m in (tiles, filters, outputs))
    of_filters /= 24
    return tuple(torch.kron(m, m).to(dtype) for m in (of_tiles, of_filters, of_outputs))  # type: ignore[return-value]
