"""The convolution of deep learning, three times: as a sum, as a matrix product, and by Fourier transforms.

What deep learning calls convolution is cross-correlation: the kernel slides over the image as it is,

    y[f, i, j] = b[f] + Σ over c, u, v of w[f, c, u, v] · x[c, i·s + u·d, j·s + v·d]

with stride s and dilation d, after zeros were added round x. The convolution of mathematics turns the kernel by half a
turn first. A network that learns its kernels can't tell the difference.

Shapes everywhere: x (N, C, H, W), w (F, C / groups, kh, kw), b (F,) or None → y (N, F, H', W'), of x's dtype. With
groups, the channels and the filters are dealt into that many piles, and each filter sees the channels of its own pile.
Every function here raises a UsageError where shapes or settings don't fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.errors import UsageError
from hubel.geometry.layer import ConvResult, Pair, conv

Plane = tuple[tuple[float, ...], ...]


class Settings(TypedDict, total=False):
    """Of a layer: one number each, or height and width; stride, dilation and groups are 1 by default, padding 0."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def direct(x: Tensor, w: Tensor, b: Tensor | None = None, **settings: Unpack[Settings]) -> Tensor:
    """Follow the formula: one pixel of the output at a time, each the sum of patch times kernel.

    >>> direct(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item()
    9.0
    """
    layer, _, patches = _layer(x, w, b, settings)
    y, per_group = x.new_empty(len(x), *layer.shape), len(w) // layer.groups
    for f, i, j in torch.cartesian_prod(*map(torch.arange, layer.shape)).tolist():
        y[:, f, i, j] = (patches[:, f // per_group, :, i, j] * w[f]).sum(dim=(1, 2, 3))
    return _biased(y, b)


def im2col(x: Tensor, w: Tensor, b: Tensor | None = None, **settings: Unpack[Settings]) -> Tensor:
    """Write every patch into a column of a matrix, and multiply by the kernels as rows.

    It repeats each pixel up to kh·kw times in memory and turns the convolution into one matrix product, which computers
    are best at (Chellapilla, Puri and Simard 2006).
    """
    layer, _, patches = _layer(x, w, b, settings)
    columns = patches.permute(0, 1, 2, 5, 6, 3, 4).flatten(2, 4).flatten(3)  # (N, groups, C / groups·kh·kw, H'·W')
    kernels = w.reshape(layer.groups, len(w) // layer.groups, -1)  # (groups, F / groups, C / groups·kh·kw)
    return _biased((kernels @ columns).reshape(len(x), *layer.shape), b)


def fft(x: Tensor, w: Tensor, b: Tensor | None = None, **settings: Unpack[Settings]) -> Tensor:
    """Multiply the Fourier transforms: sliding becomes a product at each frequency, whatever the size of the kernel.

    A product of transforms is mathematics' convolution, on a circle; the complex conjugate of the kernel's turns it
    into cross-correlation, and on the rows and columns that are kept nothing has come round the circle. All positions
    are computed and the stride picks from them, so it pays for large kernels at stride 1 only.
    """
    layer, padded, _ = _layer(x, w, b, settings)
    height, width = layer.height, layer.width
    size = (padded.shape[-2], padded.shape[-1])
    spread = w.new_zeros(*w.shape[:2], height.span, width.span)  # as dilation spreads the weights
    spread[..., :: height.dilation, :: width.dilation] = w
    images = torch.fft.rfft2(padded).unflatten(1, (layer.groups, -1))  # (N, groups, C/groups, frequencies)
    kernels = torch.fft.rfft2(spread, s=size).unflatten(0, (layer.groups, -1))
    product = torch.einsum("ngchw,gfchw->ngfhw", images, kernels.conj())
    everywhere = torch.fft.irfft2(product, s=size).flatten(1, 2)[..., :: height.stride, :: width.stride]
    return _biased(everywhere[..., : height.result, : width.result], b)


def _layer(x: Tensor, w: Tensor, b: Tensor | None, settings: Settings) -> tuple[ConvResult, Tensor, Tensor]:
    """Check the shapes and work out the sizes.

    Returns also x with zeros all round, and what lies in every window: (N, groups, C / groups, H', W', kh, kw).
    """
    if x.dim() != 4 or w.dim() != 4:
        raise UsageError(
            f"x must be (N, C, H, W) and w (F, C / groups, kh, kw), got {tuple(x.shape)} and {tuple(w.shape)}."
        )
    padding = settings.get("padding", 0)
    if isinstance(padding, str) or (not isinstance(padding, int) and len(padding) > 2):
        raise UsageError(f"padding must be one number, or height and width, got {padding!r}.")
    layer = conv(tuple(x.shape[2:]), kernel=tuple(w.shape[2:]), channels=x.shape[1], filters=len(w), **settings)
    if w.shape[1] * layer.groups != x.shape[1]:
        raise UsageError(
            f"x has {x.shape[1]} channels, and w is made for {w.shape[1] * layer.groups} ({w.shape[1]} in each of "
            f"{layer.groups} groups): make w ({len(w)}, {x.shape[1] // layer.groups}, {w.shape[2]}, {w.shape[3]})."
        )
    if b is not None and b.shape != (len(w),):
        raise UsageError(f"b must hold one number for each of the {len(w)} filters, got shape {tuple(b.shape)}.")
    height, width = layer.height, layer.width
    padded = F.pad(x, (*width.padding, *height.padding))
    windows = padded.unfold(2, height.span, height.stride).unfold(3, width.span, width.stride)
    return layer, padded, windows[..., :: height.dilation, :: width.dilation].unflatten(1, (layer.groups, -1))


def _biased(y: Tensor, b: Tensor | None) -> Tensor:
    return y if b is None else y + b.view(1, -1, 1, 1)


# ---- one pixel, number by number ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pixel:
    """The arithmetic that made one number of the output.

    Attributes:
        image, filter, row, column: which one.
        channels, rows, columns: where the kernel lay on the input; rows and columns outside of `size` are padding.
        size: rows and columns of the input.
        patch, weights, products: by channel, row and column of the kernel.
        sums: of the products, by channel.
        bias: 0 where there is none.
        value: the sum of the sums and the bias.
    """

    image: int
    filter: int
    row: int
    column: int
    channels: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    size: tuple[int, int]
    patch: tuple[Plane, ...]
    weights: tuple[Plane, ...]
    products: tuple[Plane, ...]
    sums: tuple[float, ...]
    bias: float
    value: float


def explain_pixel(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    image: int = 0,
    filter: int = 0,
    row: int,
    column: int,
    **settings: Unpack[Settings],
) -> Pixel:
    """Return patch, products and sums of the output's number at (image, filter, row, column), all counted from 0.

    A pixel that doesn't exist is a UsageError.
    """
    layer, _, patches = _layer(x, w, b, settings)
    asked = {"image": (image, len(x)), "filter": (filter, len(w))}
    asked |= {"row": (row, layer.height.result), "column": (column, layer.width.result)}
    for name, (index, count) in asked.items():
        if not 0 <= index < count:
            raise UsageError(f"{name} must be from 0 to {count - 1}, got {index}.")
    group = filter // (len(w) // layer.groups)
    patch, weights = (t.detach().double() for t in (patches[image, group, :, row, column], w[filter]))
    products = patch * weights
    sums, bias = products.sum(dim=(1, 2)), 0.0 if b is None else float(b[filter])
    rows, columns = (
        tuple(index * axis.stride - axis.padding[0] + u * axis.dilation for u in range(axis.kernel))
        for index, axis in ((row, layer.height), (column, layer.width))
    )
    return Pixel(
        image=image,
        filter=filter,
        row=row,
        column=column,
        channels=tuple(range(group * w.shape[1], (group + 1) * w.shape[1])),
        rows=rows,
        columns=columns,
        size=(x.shape[2], x.shape[3]),
        patch=_planes(patch),
        weights=_planes(weights),
        products=_planes(products),
        sums=tuple(sums.tolist()),
        bias=bias,
        value=float(sums.sum()) + bias,
    )


def _planes(tensor: Tensor) -> tuple[Plane, ...]:
    return tuple(tuple(tuple(row) for row in plane) for plane in tensor.tolist())


def pixel_text(pixel: Pixel, *, most: int = 3) -> str:
    """Tell in lines how the number came about; `most` channels are written out, of the others only the sum."""
    rows, columns = (", ".join(map(str, places)) for places in (pixel.rows, pixel.columns))
    lines = [
        f"Row {pixel.row}, column {pixel.column} of filter {pixel.filter}: the kernel lies on rows {rows} and columns "
        f"{columns} of the input."
    ]
    ends = ((pixel.rows, pixel.size[0]), (pixel.columns, pixel.size[1]))
    if any(places[0] < 0 or places[-1] >= size for places, size in ends):
        lines.append("What lies outside of the input is padding: zeros.")
    channels = zip(pixel.channels, pixel.patch, pixel.weights, pixel.products, pixel.sums, strict=True)
    for channel, *planes, total in list(channels)[:most]:
        lines += ["", f"channel {channel}: patch × kernel = products", *_side_by_side(planes)]
        lines += [f"sum of the products: {_added([v for row in planes[2] for v in row])} = {_short(total)}"]
    lines.append("")
    if len(pixel.sums) > 1:
        rest = len(pixel.sums) - most
        terms = [*pixel.sums[:most], *([sum(pixel.sums[most:])] if rest > 0 else [])]
        more = f" (the last is of the other {rest} channels)" if rest > 0 else ""
        lines.append(f"sum of the channels{more}: {_added(terms)} = {_short(sum(pixel.sums))}")
    lines.append(f"plus the bias: {_added([sum(pixel.sums), pixel.bias])} = {_short(pixel.value)}")
    return "\n".join(lines)


def _side_by_side(planes: list[Plane]) -> list[str]:
    """Patch, weights and products beside each other, right-aligned, with the signs in the middle row."""
    widths = [max(len(_short(v)) for row in plane for v in row) for plane in planes]
    lines = []
    for number, rows in enumerate(zip(*planes, strict=True)):
        times, equals = ("×", "=") if number == len(planes[0]) // 2 else (" ", " ")
        parts = [" ".join(_short(v).rjust(width) for v in row) for row, width in zip(rows, widths, strict=True)]
        lines.append(f"  {parts[0]}  {times}  {parts[1]}  {equals}  {parts[2]}")
    return lines


def _added(terms: list[float]) -> str:
    first, *others = terms
    return _short(first) + "".join(f" {'-' if v < 0 else '+'} {_short(abs(v))}" for v in others)


def _short(value: float) -> str:
    return f"{value + 0.0:.4g}"
