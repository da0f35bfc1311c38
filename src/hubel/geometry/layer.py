"""One convolution or pooling layer in whole numbers, without torch: what ``hubel conv`` says about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod

from hubel.errors import UsageError
from hubel.geometry.size import AxisPadding, AxisSize, Operation, axis_size, check_whole, counted

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
    """A layer's settings, sizes and costs for one image.

    Attributes:
        operation, groups: as asked for.
        input, shape: channels, height and width of what goes in and what comes out.
        height, width: the settings along each axis, and how its size comes about.
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
    pooled = operation in ("maxpool", "avgpool")
    strides = _pair("stride", stride if stride is not None else kernel if pooled else 1)
    pads, sizes, kernels = _paddings(padding), _pair("input", size), _pair("kernel", kernel)
    dilations, extras = _pair("dilation", dilation), _pair("output padding", output_padding)
    height, width = (
        axis_size(
            AxisSize(operation=operation, n=n, kernel=k, stride=s, dilation=d, output_padding=o),
            p,
            ceil=ceil,
            unit=unit,
        )
        for n, k, s, d, o, p, unit in zip(
            sizes, kernels, strides, dilations, extras, pads, ("row", "column"), strict=True
        )
    )
    filters = _filters(channels, filters, groups, pooled)
    before, after = (channels, height.n, width.n), (filters, height.result, width.result)
    weights = 0 if pooled else filters * (channels // groups) * height.kernel * width.kernel
    biases = filters if bias and not pooled else 0
    return ConvResult(
        operation=operation,
        groups=groups,
        input=before,
        shape=after,
        height=height,
        width=width,
        weights=weights,
        biases=biases,
        parameters=weights + biases,
        macs=weights * prod((before if operation == "transposed" else after)[1:]),
        activation_bytes=4 * prod(after),
        dense_weights=prod(before) * prod(after),
        tips=(
            *_unread(height, width),
            *_torch_padding(padding, height, width),
            *_hints(height, width, groups, channels, filters),
        ),
    )


def _pair(name: str, value: Pair) -> tuple[int, int]:
    both = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(both) not in (1, 2):
        raise UsageError(f"{name} takes one number, or two for height and width, got {len(both)}.")
    return both[0], both[-1]


def _paddings(padding: Padding) -> tuple[AxisPadding, AxisPadding]:
    """Padding of the height and of the width."""
    if isinstance(padding, (str, int)):
        return padding, padding
    if len(padding) not in (1, 2, 4):
        kinds = "one number, two (height, width) or four (top, bottom, left, right)"
        raise UsageError(f"padding takes {kinds}, got {len(padding)}.")
    return (padding[:2], padding[2:]) if len(padding) == 4 else (padding[0], padding[-1])


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
        raise UsageError(
            f"groups must divide the channels ({channels}) and the filters ({count}), got {groups}: "
            f"the largest number that does is {gcd(channels, count)}."
        )
    return count


# ---- what is easily overlooked --------------------------------------------------------------------------------------


def _unread(height: AxisSize, width: AxisSize) -> Iterator[str]:
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


def _torch_padding(padding: object, height: AxisSize, width: AxisSize) -> Iterator[str]:
    """How PyTorch has to be told, where its layer does not take this padding as it stands."""
    (top, bottom), (left, right) = height.padding, width.padding
    uneven = top != bottom or left != right
    if padding == "valid" or (padding == "same" and height.operation == "conv" and height.stride == width.stride == 1):
        return
    if height.operation == "transposed":
        if uneven:
            yield "PyTorch's layer cuts both sides alike: take the smaller padding, and slice the rest off the output."
        return
    if padding == "same":
        yield "PyTorch's own 'same' exists for convolutions at stride 1 only."
    if uneven:
        fill = ", value=float('-inf')" if height.operation == "maxpool" else ""
        yield f"PyTorch's layers pad both sides alike: call F.pad(x, ({left}, {right}, {top}, {bottom}){fill}) first."
    elif padding == "same":
        yield f"Give it padding=({top}, {left})."


def _hints(height: AxisSize, width: AxisSize, groups: int, channels: int, filters: int) -> Iterator[str]:
    """A padding that keeps the size, smaller kernels that see as much, a kernel that draws no checkerboard."""
    k, layers = height.kernel, height.kernel // 2
    plain = height.stride == width.stride == height.dilation == width.dilation == 1 and k == width.kernel and k % 2
    if height.operation == "conv" and plain and k > 1 and not any(height.padding + width.padding):
        yield f"a padding of {layers} would keep the size."
    if height.operation == "conv" and plain and k >= 5 and groups == 1:
        stack = 9 * filters * (channels + (layers - 1) * filters)
        yield (
            f"{layers} layers of 3 × 3 see as much: {9 * layers} C² weights instead of {k**2} C² where all widths are "
            f"C; here, from {channels} to {filters}, it would be {stack:,} instead of {k**2 * channels * filters:,}."
        )
    uneven = [axis for axis in (height, width) if axis.operation == "transposed" and axis.kernel % axis.stride]
    for axis in uneven[:1]:
        yield (
            f"a kernel of {axis.kernel} at stride {axis.stride} overlaps unevenly and tends to draw checkerboards: "
            f"a kernel of {-(-axis.kernel // axis.stride) * axis.stride} does not."
        )


# ---- the text -------------------------------------------------------------------------------------------------------


def conv_text(result: ConvResult) -> str:
    """Return everything about the layer as lines for a terminal: formula, numbers put in, steps, sizes, costs, tips."""
    lines = [f"{NAMES[result.operation].capitalize()}: {_times(result.input)} → {_times(result.shape)}", ""]
    axes = {"height": result.height, "width": result.width}
    if result.height == result.width:
        axes = {"height and width": result.height}
    for name, axis in axes.items():
        words = ", ".join(f"{letter} = {value}" for letter, value in axis.letters().items())
        lines += [f"{name}:  {words}", *(f"  = {step}" for step in (axis.formula, *axis.steps, axis.result))]
        lines += [f"  {axis.remark}", ""] if axis.remark else [""]
    rows = [*_costs(result), *(("note", tip) for tip in result.tips)]
    return "\n".join([*lines, *(f"{name:<12}{text}" for name, text in rows)])


def _costs(result: ConvResult) -> Iterator[tuple[str, str]]:
    """What it costs, as names and texts."""
    filters, *places = result.shape
    each = _times((result.input[0] // result.groups, result.height.kernel, result.width.kernel))
    if result.weights:
        sums = f"{result.weights:,} weights + {result.biases:,} biases = {result.parameters:,}"
        yield "parameters", f"{filters:,} filters × ({each} weights + {int(result.biases > 0)} bias): {sums}"
        counts = f"{filters:,} × {prod(places):,} outputs × {each} products"
        if result.operation == "transposed":
            counts = f"{_times(result.input[1:])} places × {result.weights:,} weights"
        yield "operations", f"{counts} = {result.macs:,} multiply-accumulates"
    else:
        yield "parameters", "none: pooling learns nothing"
    yield "output", f"{prod(result.shape):,} numbers, {result.activation_bytes:,} bytes in float32"
    if result.weights:
        yield "instead of", f"{result.dense_weights:,} weights in a dense layer between the same shapes"


def _times(numbers: Sequence[int]) -> str:
    return " × ".join(map(str, numbers))
