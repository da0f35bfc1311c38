"""What another kernel, stride or dilation of one convolution would do to every layer after it, on shapes alone."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn

from hubel.errors import UsageError
from hubel.geometry.rows import ForwardError
from hubel.geometry.summary import summary_of
from hubel.geometry.trace import follow
from hubel.nn.dry_run import bare
from hubel.nn.hooks import find_module
from hubel.records import Summary

MOST = 64  # of a kernel, stride or dilation


def what_if(
    model: nn.Module,
    input: tuple[int, int, int],
    layer: str,
    *,
    kernel: int | None = None,
    stride: int | None = None,
    dilation: int | None = None,
) -> Summary:
    """State every number about every layer of the network with one convolution changed, as `summarise` does.

    What is not given stays. Padding that kept the size of the map is adapted, so that it does again; other padding
    stays as it is. The model is not changed, and its weights are not copied.

    Args:
        layer: name of an `nn.Conv2d`.

    Raises:
        UsageError: it is no such layer, a number is impossible, or a layer no longer fits: says which and why.

    >>> what_if(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1)), (3, 8, 8), "0", stride=2).layers[0].shape
    (16, 4, 4)
    """
    model = bare(model)
    held = [*model.parameters(), *model.buffers()]
    changed = copy.deepcopy(model, {id(tensor): _without_numbers(tensor) for tensor in held})
    conv = find_module(changed, layer)
    if not isinstance(conv, nn.Conv2d):
        raise UsageError(f"{layer} is a {type(conv).__name__}: only a Conv2d can be given another kernel or stride.")
    for name, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if value is not None and not 1 <= value <= MOST:
            raise UsageError(f"{name} must be from 1 to {MOST}, got {value}.")
    before = _keeping(conv)
    conv.kernel_size = conv.kernel_size if kernel is None else (kernel, kernel)
    conv.stride = conv.stride if stride is None else (stride, stride)
    conv.dilation = conv.dilation if dilation is None else (dilation, dilation)
    if conv.padding == before:
        conv.padding = _keeping(conv)
    if not isinstance(conv.padding, str):  # what other padding modes than zeros read
        conv._reversed_padding_repeated_twice = [size for size in reversed(conv.padding) for _ in range(2)]
    conv.weight = nn.Parameter(torch.empty(*conv.weight.shape[:2], *conv.kernel_size, device="meta"))
    try:
        trace = follow(changed, input)
    except ForwardError as error:
        if sides := _sides(error.why):
            like = f"1×1 convolution with stride {conv.stride[0]}" if stride is not None else "convolution like it"
            raise UsageError(
                f"So changed, the two sides of {error.place or 'an addition'} are {' and '.join(sides)} and no longer "
                f"fit: the path beside {layer} would have to change alike, as by a {like} on the shortcut."
            ) from error
        given = f", {'×'.join(map(str, error.shape))}" if error.shape else ""
        raise UsageError(
            f"So changed, the network no longer fits together: {error.place or 'its own forward'} ({error.kind}) can't "
            f"take what it is given{given}."
        ) from error
    return summary_of(trace, changed, input, name=type(model).__name__)


def _sides(why: str) -> list[str]:
    """Channels × height × width of the two maps that torch could not add, where that is what it said."""
    shapes = re.findall(r"\[\d+, (\d+, \d+, \d+)\]", why) if "broadcast" in why else []
    return [shape.replace(", ", "×") for shape in shapes] if len(shapes) == 2 else []


def _keeping(conv: nn.Conv2d) -> tuple[int, int]:
    """The padding that keeps the size of the map at stride 1."""
    height, width = (d * (k - 1) // 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    return height, width


def _without_numbers(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
