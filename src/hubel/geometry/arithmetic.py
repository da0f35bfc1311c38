"""One convolution or pooling layer in whole numbers, without torch: what ``hubel conv`` says about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

from hubel.errors import UsageError
from hubel.geometry.conv_tips import tips
from hubel.geometry.layer_counts import dense_weights, weights
from hubel.geometry.output_size import AxisPadding, AxisSize, Operation, axis_size, check_whole

Pair = int | Sequence[int]  # one number for both axes, or height and width
Padding = int | str | Sequence[int]  # also top, bottom, left, right
NAMES: dict[Operation, str] = {
    "conv": "convolution",
    "maxpool": "max pooling",
    "avgpool": "average pooling",
    "transposed": "transposed convolution",
}


@dataclass(frozen=True, kw_only=True)
class ConvResult:
    """A layer's sizes and costs for one image.

    Attributes:
        operation, groups: as asked for.
        input, shape: channels, height and width of what goes in and what comes out.
        height, width: how each size comes about.
        weights, biases, parameters: numbers it learns; parameters is their sum.
        macs: multiply-accumulates, padding included, biases not; 0 for pooling.
        activation_bytes: of the output in float32.
        dense_weights: weights of a fully connected layer between the same shapes.
        tips: what is easily overlooked here, one sentence each.
    """

    operation: Operation
    groups: int
    input: tuple[int, int, int]
    shape: tuple[int, int, int]
    height: AxisSize
    width: AxisSize
    weights: int
    biases: int
    parameters: int
    macs: int
    activation_bytes: int
    dense_weights: int
    tips: tuple[str, ...]


def conv(
    size: Pair,
    *,
    kernel: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    channels: int = 3,
    filters: int | None = None,
    groups: int = 1,
    bias: bool = True,
    operation: Operation = "conv",
    ceil: bool = False,
    output_padding: Pair = 0,
) -> ConvResult:
    """Work out one layer.

    Args:
        size, kernel, stride, dilation, output_padding: one number, or height and width. A stride of None means 1, and
            the kernel for pooling.
        padding: one number, height and width, or top, bottom, left and right; or ``same`` or ``valid``.
        filters: output channels; None means 16, and as many as come in for pooling.
        ceil: pooling only: round the size up.

    Raises:
        UsageError: a number is impossible; the message says what to change, and to what.

    >>> conv(224, kernel=3, stride=2).shape
    (16, 111, 111)
    """
    strides = (None, None) if stride is None else _pair("stride", stride)
    pads, sizes, kernels = _paddings(padding), _pair("input", size), _pair("kernel", kernel)
    dilations, extras = _pair("dilation", dilation), _pair("output padding", output_padding)
    height, width = (
        axis_size(
            sizes[axis],
            kernels[axis],
            stride=strides[axis],
            padding=pads[axis],
            dilation=dilations[axis],
            operation=operation,
            ceil=ceil,
            output_padding=extras[axis],
            unit=("row", "column")[axis],
        )
        for axis in (0, 1)
    )
    pooled = operation in ("maxpool", "avgpool")
    filters = _filters(channels, filters, groups, pooled)
    shape = (filters, height.result, width.result)
    learned = 0 if pooled else weights(channels, filters, kernels, groups=groups)
    places = prod(sizes) if operation == "transposed" else height.result * width.result
    biases = filters if bias and not pooled else 0
    return ConvResult(
        operation=operation,
        groups=groups,
        input=(channels, *sizes),
        shape=shape,
        height=height,
        width=width,
        weights=learned,
        biases=biases,
        parameters=learned + biases,
        macs=learned * places,
        activation_bytes=4 * prod(shape),
        dense_weights=dense_weights((channels, *sizes), shape),
        tips=tuple(tips(padding, height, width, channels, filters, groups)),
    )


def conv_text(result: ConvResult) -> str:
    """Everything about the layer as lines for a terminal: formula, numbers put in, steps, sizes, costs, tips."""
    (channels, *_), (filters, rows, columns) = result.input, result.shape
    axes = [("height", result.height), ("width", result.width)]
    if result.height == result.width:
        axes = [("height and width", result.height)]
    lines = [f"{NAMES[result.operation].capitalize()}: {_times(result.input)} → {_times(result.shape)}", ""]
    for name, axis in axes:
        lines += [*_axis_lines(name, axis), ""]
    kernel = (result.height.kernel, result.width.kernel)
    seen, places = channels // result.groups, rows * columns
    if result.weights:
        sums = f"{result.weights:,} weights + {result.biases:,} biases = {result.parameters:,}"
        each = f"{filters:,} filters × ({_times((seen, *kernel))} weights + {int(result.biases > 0)} bias)"
        lines += [_row("parameters", f"{each}: {sums}")]
        if result.operation == "transposed":
            counts = f"{_times(result.input[1:])} places × {result.weights:,} weights"
        else:
            counts = f"{filters:,} × {places:,} outputs × {_times((seen, *kernel))} products"
        lines += [_row("operations", f"{counts} = {result.macs:,} multiply-accumulates")]
    else:
        lines += [_row("parameters", "none: pooling learns nothing")]
    lines += [_row("output", f"{prod(result.shape):,} numbers, {result.activation_bytes:,} bytes in float32")]
    if result.weights:
        instead = f"{result.dense_weights:,} weights in a dense layer between the same shapes"
        lines += [_row("instead of", instead)]
    lines += [_row("note", tip) for tip in result.tips]
    return "\n".join(lines)


def _axis_lines(name: str, axis: AxisSize) -> list[str]:
    before, after = axis.padding
    given = {"n": axis.n, "k": axis.kernel, "s": axis.stride, "d": axis.dilation, "o": axis.output_padding}
    given |= {"p": before} if before == after else {"p0": before, "p1": after}
    words = [f"{name} = {value}" for name, value in given.items() if re.search(rf"\b{name}\b", axis.formula)]
    lines = [f"{name}:  {', '.join(words)}"]
    lines += [f"  = {step}" for step in (axis.formula, *axis.steps, str(axis.result))]
    return lines + ([f"  {axis.remark}"] if axis.remark else [])


def _row(name: str, text: str) -> str:
    return f"{name:<12}{text}"


def _times(numbers: Sequence[int]) -> str:
    return " × ".join(map(str, numbers))


def _pair(name: str, value: Pair) -> tuple[int, int]:
    both = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(both) not in (1, 2):
        raise UsageError(f"{name} takes one number, or two for height and width, got {len(both)}.")
    return both[0], both[-1]


def _paddings(padding: Padding) -> tuple[AxisPadding, AxisPadding]:
    """Padding of the height and of the width."""
    if isinstance(padding, str):
        return padding, padding
    numbers: list[int] = [padding] if isinstance(padding, int) else [*padding]
    if len(numbers) not in (1, 2, 4):
        kinds = "one number, two (height, width) or four (top, bottom, left, right)"
        raise UsageError(f"padding takes {kinds}, got {len(numbers)}.")
    if len(numbers) == 4:
        return (numbers[0], numbers[1]), (numbers[2], numbers[3])
    return (numbers[0], numbers[0]), (numbers[-1], numbers[-1])


def _filters(channels: int, filters: int | None, groups: int, pooled: bool) -> int:
    """Output channels, checked against the groups."""
    check_whole("channels", channels)
    check_whole("groups", groups)
    if pooled:
        if filters not in (None, channels) or groups != 1:
            raise UsageError(f"pooling keeps its {channels} channels apart: leave filters and groups out.")
        return channels
    count = check_whole("filters", 16 if filters is None else filters)
    if channels % groups or count % groups:
        near = gcd(channels, count)
        raise UsageError(
            f"groups must divide the channels ({channels}) and the filters ({count}), got {groups}: "
            f"the largest number that does is {near}."
        )
    return count
