"""What is easily overlooked about one convolution or pooling layer; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

from hubel.geometry.layer_counts import stack_weights
from hubel.geometry.output_size import AxisSize, counted


def tips(padding: object, height: AxisSize, width: AxisSize, channels: int, filters: int, groups: int) -> Iterable[str]:
    """Sentences that fit the layer, the most important first; `padding` is as it was asked for."""
    yield from _unread(height, width)
    yield from _torch_padding(padding, height, width)
    kernel, operation = height.kernel, height.operation
    plain = height.stride == width.stride == height.dilation == width.dilation == 1 and kernel == width.kernel
    if operation == "conv" and plain and kernel % 2 and kernel > 1 and not any(height.padding + width.padding):
        yield f"a padding of {kernel // 2} would keep the size."
    if operation == "conv" and plain and kernel % 2 and kernel >= 5 and groups == 1:
        layers = kernel // 2
        yield (
            f"{layers} layers of 3 × 3 see as much: {9 * layers} C² weights instead of {kernel**2} C² where all widths "
            f"are C; here, from {channels} to {filters}, it would be {stack_weights(channels, filters, 3, layers):,} "
            f"instead of {stack_weights(channels, filters, kernel, 1):,}."
        )
    for axis in (height, width):
        if operation == "transposed" and axis.kernel % axis.stride:
            near = -(-axis.kernel // axis.stride) * axis.stride
            yield (
                f"a kernel of {axis.kernel} at stride {axis.stride} overlaps unevenly and tends to draw checkerboards: "
                f"a kernel of {near} does not."
            )
            return


def _unread(height: AxisSize, width: AxisSize) -> Iterable[str]:
    """What the windows leave out: at the end, and between them."""
    pairs = ((height, "row", "the bottom"), (width, "column", "the right"))
    lost = [f"{counted(axis.unseen, unit)} at {end}" for axis, unit, end in pairs if axis.unseen]
    if lost:
        yield f"no window sees {' and '.join(lost)}; PyTorch drops them silently."
    skips = [f"{read} of every {axis.stride} {unit}s" for axis, unit, _ in pairs if (read := _read(axis)) < axis.stride]
    if skips:
        yield f"the stride steps over inputs: only {' and '.join(skips)} {'are' if len(skips) > 1 else 'is'} read."


def _read(axis: AxisSize) -> int:
    """How many of each `stride` neighbouring inputs some window reads."""
    if axis.operation == "transposed" or axis.result == 1:
        return axis.stride
    return min(axis.kernel, axis.stride // gcd(axis.dilation, axis.stride))


def _torch_padding(padding: object, height: AxisSize, width: AxisSize) -> Iterable[str]:
    """How PyTorch has to be told, where its layer does not take this padding as it stands."""
    (top, bottom), (left, right) = height.padding, width.padding
    known = height.operation == "conv" and height.stride == width.stride == 1
    if padding == "valid" or (padding == "same" and known):
        return
    if height.operation == "transposed":
        if top != bottom or left != right:
            yield "PyTorch's layer cuts both sides alike: take the smaller padding, and slice the rest off the output."
        return
    if padding == "same":
        yield "PyTorch's own 'same' exists for convolutions at stride 1 only."
    if top != bottom or left != right:
        fill = ", value=float('-inf')" if height.operation == "maxpool" else ""
        yield f"PyTorch's layers pad both sides alike: call F.pad(x, ({left}, {right}, {top}, {bottom}){fill}) first."
    elif padding == "same":
        yield f"Give it padding=({top}, {left})."
