"""Which kernel a convolution takes while training on a processor: oneDNN's, or one that was measured to be faster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hubel.learning.config import Precision
from hubel.learning.kernels import depthwise, strips, winograd

Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (N, C, H, W) and filters (K, C, k, k) to maps, without a bias
Choice: TypeAlias = Callable[[Tensor, Tensor, int, int], Kernel | None]  # by image, filters, stride and padding


def faster(precision: Precision) -> AbstractContextManager[object]:
    """Return what to enter around a network's forward pass in that number format, on this processor."""
    if precision == "bfloat16":
        return FasterConvolutions(strips.kernel_for if has_matrix_units() else None, torch.bfloat16)
    if precision == "float32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return FasterConvolutions(winograd.kernel_for, torch.float32)
    return nullcontext()


def has_matrix_units() -> bool:
    """Whether this processor has AMX."""
    return bool(torch.cpu._is_amx_tile_supported())


class FasterConvolutions(TorchFunctionMode):
    """While it is entered, `torch.conv2d` takes the kernel that `choose` knows for the shapes at hand, if it knows one.

    In bfloat16, convolutions of each channel on its own take `depthwise`.
    Networks stay as they are: their layers call the same function. Only filters that learn are meant, on a processor,
    whose layers compute in `dtype`: under autocast to bfloat16, or in float32 without it.
    """

    def __init__(self, choose: Choice | None, dtype: torch.dtype) -> None:
        self.choose, self.dtype = choose, dtype
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.conv2d or kwargs or len(args) != 7:
            return func(*args, **(kwargs or {}))
        image, weight, bias, stride, padding, dilation, groups = args
        if isinstance(padding, str) or not self._is_meant(image, weight):
            return func(*args)
        choose = self.choose if groups == 1 else None
        if groups == len(weight) == image.shape[1] > 1 and self.dtype is torch.bfloat16:
            choose = depthwise.kernel_for
        square = (*dilation, *stride[1:], *padding[1:]) == (1, 1, stride[0], padding[0])
        kernel = choose(image, weight, stride[0], padding[0]) if choose and square else None
        if kernel is None:
            return func(*args)
        maps = kernel(image.to(self.dtype), weight.to(self.dtype))
        return maps if bias is None else maps + bias.to(self.dtype).view(-1, 1, 1)

    def _is_meant(self, image: Tensor, weight: Tensor) -> bool:
        if image.device.type != "cpu" or image.ndim != 4 or len(image) == 0 or not weight.requires_grad:
            return False
        if torch.is_autocast_enabled("cpu"):
            return torch.get_autocast_dtype("cpu") is self.dtype
        return image.dtype == weight.dtype == self.dtype == torch.float32
