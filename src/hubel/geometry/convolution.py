"""The convolution of deep learning, three times: as a sum, as a matrix product, and by Fourier transforms.

What deep learning calls convolution is cross-correlation: the kernel slides over the image as it is,

    y[f, i, j] = b[f] + Σ over c, u, v of w[f, c, u, v] · x[c, i·s + u·d, j·s + v·d]

with stride s and dilation d, after zeros were added round x. The convolution of mathematics turns the kernel by half a
turn first. A network that learns its kernels can't tell the difference.

Shapes everywhere: x (N, C, H, W), w (F, C / groups, kh, kw), b (F,) or None → y (N, F, H', W'), of x's dtype. With
groups, the channels and the filters are dealt into that many piles, and each filter sees the channels of its own pile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.errors import UsageError
from hubel.geometry.arithmetic import Pair, conv
from hubel.geometry.pixel import Pixel, Plane


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Settings as (height, width), and the size of the output."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    kernel: tuple[int, int]
    output: tuple[int, int]


def direct(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Follow the formula: one pixel of the output at a time, each the sum of patch times kernel.

    Raises:
        UsageError: shapes or settings don't fit together.

    >>> direct(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item()
    9.0
    """
    layer = _layer(x, w, b, stride, padding, dilation, groups)
    padded = _padded(x, layer)
    y = x.new_empty(len(x), len(w), *layer.output)
    per_group = len(w) // groups
    for f in range(len(w)):
        for i in range(layer.output[0]):
            for j in range(layer.output[1]):
                patch = _patch(padded, w, layer, f // per_group, i, j)
                y[:, f, i, j] = (patch * w[f]).sum(dim=(1, 2, 3))
    return _biased(y, b)


def im2col(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Write every patch into a column of a matrix, and multiply by the kernels as rows.

    It repeats each pixel up to kh·kw times in memory and turns the convolution into one matrix product, which computers
    are best at (Chellapilla, Puri and Simard 2006).

    Raises:
        UsageError: shapes or settings don't fit together.
    """
    layer = _layer(x, w, b, stride, padding, dilation, groups)
    (kh, kw), (rows, columns) = layer.kernel, layer.output
    padded = _padded(x, layer)
    taps = [_tap(padded, layer, u, v) for u in range(kh) for v in range(kw)]  # kh·kw of (N, C, H', W')
    patches = torch.stack(taps, dim=2)  # (N, C, kh·kw, H', W')
    columns_of_patches = patches.reshape(len(x), groups, -1, rows * columns)  # (N, groups, C/groups·kh·kw, H'·W')
    kernels = w.reshape(groups, len(w) // groups, -1)  # (groups, F/groups, C/groups·kh·kw)
    return _biased((kernels @ columns_of_patches).reshape(len(x), len(w), rows, columns), b)


def fft(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Multiply the Fourier transforms: sliding becomes a product at each frequency, whatever the size of the kernel.

    A product of transforms is mathematics' convolution, on a circle; the complex conjugate of the kernel's turns it
    into cross-correlation, and on the rows and columns that are kept nothing has come round the circle. All positions
    are computed and the stride picks from them, so it pays for large kernels at stride 1 only.

    Raises:
        UsageError: shapes or settings don't fit together.
    """
    layer = _layer(x, w, b, stride, padding, dilation, groups)
    padded, (s, t), (rows, columns) = _padded(x, layer), layer.stride, layer.output
    size = (padded.shape[-2], padded.shape[-1])
    images = torch.fft.rfft2(padded).unflatten(1, (groups, -1))  # (N, groups, C/groups, frequencies)
    kernels = torch.fft.rfft2(_with_holes(w, layer.dilation), s=size).unflatten(0, (groups, -1))
    product = torch.einsum("ngchw,gfchw->ngfhw", images, kernels.conj())
    everywhere = torch.fft.irfft2(product, s=size).flatten(1, 2)
    return _biased(everywhere[..., : s * rows : s, : t * columns : t], b)


def explain_pixel(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    image: int = 0,
    filter: int = 0,
    row: int,
    column: int,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Pixel:
    """Return patch, products and sums of the output's number at (image, filter, row, column), all counted from 0.

    Raises:
        UsageError: there is no such pixel, or shapes or settings don't fit together.
    """
    layer = _layer(x, w, b, stride, padding, dilation, groups)
    asked = {"image": (image, len(x)), "filter": (filter, len(w))}
    asked |= {"row": (row, layer.output[0]), "column": (column, layer.output[1])}
    for name, (index, count) in asked.items():
        if not 0 <= index < count:
            raise UsageError(f"{name} must be from 0 to {count - 1}, got {index}.")
    group = filter // (len(w) // groups)
    patch = _patch(_padded(x[image : image + 1], layer), w, layer, group, row, column)[0].detach().double()
    products = patch * w[filter].detach().double()
    sums, bias = products.sum(dim=(1, 2)), 0.0 if b is None else float(b[filter])
    top, left = row * layer.stride[0] - layer.padding[0], column * layer.stride[1] - layer.padding[1]
    return Pixel(
        image=image,
        filter=filter,
        row=row,
        column=column,
        channels=tuple(range(group * w.shape[1], (group + 1) * w.shape[1])),
        rows=tuple(top + u * layer.dilation[0] for u in range(layer.kernel[0])),
        columns=tuple(left + v * layer.dilation[1] for v in range(layer.kernel[1])),
        size=(x.shape[2], x.shape[3]),
        patch=_planes(patch),
        weights=_planes(w[filter]),
        products=_planes(products),
        sums=tuple(sums.tolist()),
        bias=bias,
        value=float(sums.sum()) + bias,
    )


def _planes(tensor: Tensor) -> tuple[Plane, ...]:
    return tuple(tuple(tuple(row) for row in plane) for plane in tensor.detach().double().tolist())


def _layer(x: Tensor, w: Tensor, b: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> _Layer:
    """Check the shapes and work out the size of the output."""
    if x.dim() != 4 or w.dim() != 4:
        raise UsageError(
            f"x must be (N, C, H, W) and w (F, C / groups, kh, kw), got {tuple(x.shape)} and {tuple(w.shape)}."
        )
    if isinstance(padding, str) or (not isinstance(padding, int) and len(padding) > 2):
        raise UsageError(f"padding must be one number, or height and width, got {padding!r}.")
    result = conv(
        (x.shape[2], x.shape[3]),
        kernel=(w.shape[2], w.shape[3]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        channels=x.shape[1],
        filters=len(w),
        groups=groups,
    )
    if w.shape[1] * groups != x.shape[1]:
        raise UsageError(
            f"x has {x.shape[1]} channels, and w is made for {w.shape[1] * groups} ({w.shape[1]} in each of {groups} "
            f"groups): make w ({len(w)}, {x.shape[1] // groups}, {w.shape[2]}, {w.shape[3]})."
        )
    if b is not None and b.shape != (len(w),):
        raise UsageError(f"b must hold one number for each of the {len(w)} filters, got shape {tuple(b.shape)}.")
    height, width = result.height, result.width
    return _Layer(
        stride=(height.stride, width.stride),
        padding=(height.padding[0], width.padding[0]),
        dilation=(height.dilation, width.dilation),
        groups=groups,
        kernel=(height.kernel, width.kernel),
        output=(height.result, width.result),
    )


def _padded(x: Tensor, layer: _Layer) -> Tensor:
    """Zeros all round."""
    rows, columns = layer.padding
    return F.pad(x, (columns, columns, rows, rows))


def _patch(padded: Tensor, w: Tensor, layer: _Layer, group: int, i: int, j: int) -> Tensor:
    """What the window of output pixel (i, j) covers in the channels of a group: (N, C / groups, kh, kw)."""
    (s, t), (d, e), (kh, kw) = layer.stride, layer.dilation, layer.kernel
    channels = slice(group * w.shape[1], (group + 1) * w.shape[1])
    rows, columns = slice(i * s, i * s + d * (kh - 1) + 1, d), slice(j * t, j * t + e * (kw - 1) + 1, e)
    return padded[:, channels, rows, columns]


def _tap(padded: Tensor, layer: _Layer, u: int, v: int) -> Tensor:
    """What lies under kernel position (u, v) at every stop of the window: (N, C, H', W')."""
    (s, t), (d, e), (rows, columns) = layer.stride, layer.dilation, layer.output
    return padded[:, :, u * d : u * d + s * (rows - 1) + 1 : s, v * e : v * e + t * (columns - 1) + 1 : t]


def _with_holes(w: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel with zeros between its weights, as dilation spreads them."""
    (d, e), (kh, kw) = dilation, w.shape[-2:]
    spread = w.new_zeros(*w.shape[:2], d * (kh - 1) + 1, e * (kw - 1) + 1)
    spread[..., ::d, ::e] = w
    return spread


def _biased(y: Tensor, b: Tensor | None) -> Tensor:
    return y if b is None else y + b.view(1, -1, 1, 1)
