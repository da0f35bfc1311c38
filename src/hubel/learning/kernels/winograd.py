"""Convolutions with 3×3 filters in a quarter of the multiplications, for processors that train in float32.

An image is cut into tiles of 6×6 pixels that overlap by two. Tiles and filters are transformed, multiplied point by
point, summed over the channels, and transformed to 4×4 outputs: 36 multiplications where plain sums take 144 (Winograd
1980; Lavin and Gray 2016, F(4×4, 3×3)). The sums over channels are 36 matrix products, the transforms one small product
a tile. Gradients take the same steps backwards, each transposed. Rounding in float32 is two to five times that of
plain sums: 2e-6 of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.learning.kernels.gradients import plain_gradient

TILE, OUTPUTS, FILTER = 6, 4, 3  # pixels a side of a tile, of what becomes of it, and of a filter
LEAST = 64  # channels on both sides from which the filters' gradient is faster,
EVERYTHING = 128  # and from which output and image's gradient are, too
WASTE = 1.4  # pixels in all tiles for one of the output, at most
AT_ONCE, FEWEST = 16_384, 128  # tiles times channels that are transformed together, to stay in the cache; and tiles


class WinogradConvolution(torch.autograd.Function):
    """A convolution (N, C, H, W) → (N, K, H, W) with filters (K, C, 3, 3), stride 1 and zeros round the image.

    From EVERYTHING channels on, the tiles are kept for the gradients: 2.25 times the image.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        """Convolve."""
        ctx.together = _together(image, weight)
        ctx.all = min(weight.shape[:2]) >= EVERYTHING
        if not ctx.all:
            ctx.save_for_backward(weight, image)
            return F.conv2d(image, weight, None, 1, 1)
        filters, kept = _filter_points(weight).mT, []
        height, width = image.shape[2:]
        maps = image.new_empty(len(image), OUTPUTS * _tiles(height), OUTPUTS * _tiles(width), len(weight))
        for points, found in zip(_points(image, ctx.together), maps.split(ctx.together), strict=True):
            kept.append(points)
            outputs = _each(_transforms(image.dtype)[2], (points @ filters).transpose(0, 1))
            _in_tiles(found).copy_(outputs.view(_in_tiles(found).shape))
        ctx.save_for_backward(weight, *kept)
        return maps[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the gradients of image and filters."""
        weight, *kept = ctx.saved_tensors
        channels, wanted = weight.shape[1], ctx.needs_input_grad[0]
        if ctx.all:
            return _gradients(kept, gradient, _filter_points(weight) if wanted else None, channels, ctx.together)
        to_image = plain_gradient(gradient, kept[0], weight, 1, 1, of_image=True) if wanted else None
        return to_image, _gradients(_points(kept[0], ctx.together), gradient, None, channels, ctx.together)[1]


def kernel_for(image: Tensor, weight: Tensor, stride: int, padding: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what convolves an image with those filters faster than oneDNN; None where nothing does."""
    filters, channels, *kernel = weight.shape
    height, width = image.shape[2:]
    if (*kernel, stride, padding) != (FILTER, FILTER, 1, 1) or min(filters, channels) < LEAST:
        return None
    wasteful = _tiles(height) * _tiles(width) * OUTPUTS**2 > WASTE * height * width
    fitting = image.is_contiguous(memory_format=torch.channels_last) and not wasteful
    return WinogradConvolution.apply if fitting else None


def _gradients(
    points: Iterable[Tensor], gradient: Tensor, filters: Tensor | None, channels: int, together: int
) -> tuple[Tensor | None, Tensor]:
    """Of the image (N, C, H, W), where the filters' points (36, K, C) are given, and of the filters; channels last."""
    of_tiles, of_filters, of_outputs = _transforms(gradient.dtype)
    slopes = gradient.permute(0, 2, 3, 1)
    count, height, width, kinds = slopes.shape
    down, across = _tiles(height), _tiles(width)
    if (height, width) != (OUTPUTS * down, OUTPUTS * across):
        slopes = F.pad(slopes, (0, 0, 0, OUTPUTS * across - width, 0, OUTPUTS * down - height))
    to_filters = gradient.new_empty(TILE**2, kinds, channels)
    to_image = gradient.new_empty(0 if filters is None else count, height, width, channels)
    for number, (seen, theirs) in enumerate(zip(points, slopes.split(together), strict=True)):
        spread = _each(of_outputs.mT, _in_tiles(theirs).reshape(-1, OUTPUTS**2, kinds)).transpose(0, 1)
        to_filters.baddbmm_(spread.mT, seen, beta=min(number, 1))
        if filters is not None:
            tiles = _each(of_tiles.mT, (spread @ filters).transpose(0, 1))
            image = _added_up(tiles.view(-1, down, across, TILE, TILE, channels))
            to_image[number * together :][: len(theirs)] = image[:, 1 : height + 1, 1 : width + 1]
    found = _each(of_filters.mT, to_filters.transpose(0, 1)).view(kinds, FILTER, FILTER, channels)
    return None if filters is None else to_image.permute(0, 3, 1, 2), found.permute(0, 3, 1, 2)


def _added_up(tiles: Tensor) -> Tensor:
    """Tiles (N, Y, X, 6, 6, C) that overlap by two → an image (N, 4·(Y+1), 4·(X+1), C)."""
    count, down, across, *_, channels = tiles.shape
    image = tiles.new_empty(count, OUTPUTS * (down + 1), OUTPUTS * (across + 1), channels)
    into = _in_tiles(image)
    into[:, -1, :, : TILE - OUTPUTS] = 0
    into[:, :, -1, :, : TILE - OUTPUTS] = 0
    into[:, :-1, :-1] = tiles[:, :, :, :OUTPUTS, :OUTPUTS]
    into[:, 1:, :-1, : TILE - OUTPUTS] += tiles[:, :, :, OUTPUTS:, :OUTPUTS]
    into[:, :-1, 1:, :, : TILE - OUTPUTS] += tiles[:, :, :, :OUTPUTS, OUTPUTS:]
    into[:, 1:, 1:, : TILE - OUTPUTS, : TILE - OUTPUTS] += tiles[:, :, :, OUTPUTS:, OUTPUTS:]
    return image


def _in_tiles(pixels: Tensor) -> Tensor:
    """(N, 4·Y, 4·X, C) → (N, Y, X, 4, 4, C), a view."""
    tiles: Tensor = pixels.unflatten(1, (-1, OUTPUTS)).unflatten(3, (-1, OUTPUTS)).transpose(2, 3)
    return tiles


def _points(image: Tensor, each: int) -> Iterator[Tensor]:
    """(N, C, H, W) → (36, tiles, C), of `each` images at a time."""
    pixels = image.permute(0, 2, 3, 1)
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


def _together(image: Tensor, weight: Tensor) -> int:
    """How many images are transformed at once."""
    tiles = _tiles(image.shape[2]) * _tiles(image.shape[3])
    return max(1, max(FEWEST, AT_ONCE // max(weight.shape[:2])) // tiles)


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
