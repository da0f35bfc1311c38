"""Convolutions of small maps as matrix products, which a processor with matrix units (AMX) computes faster.

oneDNN's kernels for the gradient of a 3×3 filter bank reach a sixth of the speed of a matrix product on maps of 4×4
positions, and of the whole convolution a third. Measured on such a processor in bfloat16, forward and backward, batches
of 64: 512 channels at 4×4 take 12 instead of 33 ms, 256 at 7×7 7.4 instead of 9.1; with 64 channels, or on larger maps,
nothing is gained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHANNELS = 128  # of the input: with fewer, copying the patches costs more than the product gains
SMALL, TINY = 64, 16  # positions of the output: the filters' gradient is a product up to SMALL, all three up to TINY
TINY_CHANNELS = 256  # from which all three are


class SmallMaps(TorchFunctionMode):
    """While it is entered, `torch.conv2d` under bfloat16 autocast takes the faster road for small maps.

    Networks stay as they are: their layers call the same function. It only ever changes the order of summing up. Layers
    that leave autocast compute as they would.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7:
            image, weight, bias, stride, padding, dilation, groups = args
            if (
                groups == 1
                and not isinstance(padding, str)
                and (*dilation, *stride[1:], *padding[1:]) == (1, 1, stride[0], padding[0])
                and _gains(image, weight, stride[0], padding[0])
            ):
                maps = SmallConvolution.apply(image.bfloat16(), weight.bfloat16(), stride[0], padding[0])
                return maps if bias is None else maps + bias.bfloat16().view(-1, 1, 1)
        return func(*args, **(kwargs or {}))


def supported() -> bool:
    """Whether this processor has the matrix units that the bounds were measured with."""
    return bool(torch.cpu._is_amx_tile_supported())


def _gains(image: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    side = weight.shape[2]
    if image.device.type != "cpu" or image.ndim != 4 or not weight.requires_grad or weight.shape[1] < CHANNELS:
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") is not torch.bfloat16:
        return False
    return side == weight.shape[3] > 1 and _positions(image, side, stride, padding) <= SMALL


def _positions(image: Tensor, kernel: int, stride: int, padding: int) -> int:
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in image.shape[2:])
    return rows * columns


class SmallConvolution(torch.autograd.Function):
    """A convolution (N, C, H, W) → (N, K, H', W') with square filters (K, C, k, k), patches laid out as a matrix."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """Convolve; tiny maps as patches times filters."""
        kernel = weight.shape[2]
        tiny = _positions(image, kernel, stride, padding) <= TINY and weight.shape[1] >= TINY_CHANNELS
        ctx.stride, ctx.padding, ctx.tiny = stride, padding, tiny
        if not tiny:
            ctx.save_for_backward(image, weight)
            return F.conv2d(image, weight, None, stride, padding)
        patches = _patches(image, kernel, stride, padding)
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        ctx.save_for_backward(patches, weight)
        ctx.shape = image.shape
        return (patches @ matrix.T).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Filters: gradient times patches. Image: gradient times filters, put back where the patches came from."""
        kept, weight = ctx.saved_tensors
        kernel, stride, padding = weight.shape[2], ctx.stride, ctx.padding
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        patches = kept if ctx.tiny else _patches(kept, kernel, stride, padding)
        to_weight = (rows.T @ patches.flatten(0, 2)).view(len(weight), kernel, kernel, -1).permute(0, 3, 1, 2)
        to_image: Tensor | None = None
        if ctx.needs_input_grad[0] and ctx.tiny:
            matrix = weight.permute(0, 2, 3, 1).flatten(1)
            to_image = _put_back((rows @ matrix).view(patches.shape), ctx.shape, kernel, stride, padding)
        elif ctx.needs_input_grad[0]:
            wanted = [True, False, False]
            settings = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted)
            to_image = torch.ops.aten.convolution_backward(gradient, kept, weight, None, *settings)[0]
        return to_image, to_weight, None, None


def _patches(image: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) → (N, H', W', k·k·C): what the filters see at each position."""
    padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    return padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3).flatten(3)


def _put_back(patches: Tensor, shape: Sequence[int], kernel: int, stride: int, padding: int) -> Tensor:
    """Sum up patches (N, H', W', k·k·C) into the image (N, C, H, W) that they overlap in."""
    count, channels, height, width = shape
    rows, columns = patches.shape[1:3]
    parts = patches.view(count, rows, columns, kernel, kernel, channels)
    padded = patches.new_zeros(count, height + 2 * padding, width + 2 * padding, channels)
    for i in range(kernel):
        for j in range(kernel):
            padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride] += parts[:, :, :, i, j]
    return padded[:, padding : padding + height, padding : padding + width].permute(0, 3, 1, 2)
