"""One number of a convolution's output, and the arithmetic that made it, as text; no torch."""

from __future__ import annotations

from dataclasses import dataclass

Plane = tuple[tuple[float, ...], ...]


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


def pixel_text(pixel: Pixel, *, most: int = 3) -> str:
    """Tell in lines how the number came about; `most` channels are written out, of the others only the sum."""
    lines = [
        f"Row {pixel.row}, column {pixel.column} of filter {pixel.filter}: the kernel lies on rows "
        f"{_listed(pixel.rows)} and columns {_listed(pixel.columns)} of the input."
    ]
    if _outside(pixel.rows, pixel.size[0]) or _outside(pixel.columns, pixel.size[1]):
        lines.append("What lies outside of the input is padding: zeros.")
    for channel, *planes, total in list(
        zip(pixel.channels, pixel.patch, pixel.weights, pixel.products, pixel.sums, strict=True)
    )[:most]:
        lines += ["", f"channel {channel}: patch × kernel = products", *_side_by_side(*planes)]
        lines += [f"sum of the products: {_added([v for row in planes[2] for v in row])} = {_short(total)}"]
    lines.append("")
    if len(pixel.sums) > 1:
        rest = len(pixel.sums) - most
        terms = [*pixel.sums[:most], *([sum(pixel.sums[most:])] if rest > 0 else [])]
        more = f" (the last is of the other {rest} channels)" if rest > 0 else ""
        lines.append(f"sum of the channels{more}: {_added(terms)} = {_short(sum(pixel.sums))}")
    lines.append(f"plus the bias: {_added([sum(pixel.sums), pixel.bias])} = {_short(pixel.value)}")
    return "\n".join(lines)


def _side_by_side(patch: Plane, weights: Plane, products: Plane) -> list[str]:
    """Three planes beside each other, right-aligned, with the signs in the middle row."""
    written = [[[_short(v) for v in row] for row in plane] for plane in (patch, weights, products)]
    widths = [max(len(v) for row in plane for v in row) for plane in written]
    lines = []
    for number, rows in enumerate(zip(*written, strict=True)):
        signs = (" × ", " = ") if number == len(patch) // 2 else ("   ", "   ")
        parts = [" ".join(v.rjust(width) for v in row) for row, width in zip(rows, widths, strict=True)]
        lines.append(f"  {parts[0]} {signs[0]} {parts[1]} {signs[1]} {parts[2]}")
    return lines


def _outside(places: tuple[int, ...], size: int) -> bool:
    return places[0] < 0 or places[-1] >= size


def _listed(places: tuple[int, ...]) -> str:
    return ", ".join(map(str, places))


def _added(terms: list[float]) -> str:
    first, *others = terms
    return _short(first) + "".join(f" {'-' if v < 0 else '+'} {_short(abs(v))}" for v in others)


def _short(value: float) -> str:
    return f"{value + 0.0:.4g}"
