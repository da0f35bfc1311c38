"""A network layer by layer: as text for the terminal, and as a page with its picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from markupsafe import Markup

from hubel.records import Finding, Layer, Summary
from hubel.report.network import NARROW, architecture_svg
from hubel.report.style import filled, style_sheet
from hubel.report.wording import amount, memory, plain, shortened, sides, times, whole

WIDTH = 100
NAME = 20
NUMBERS = (("output", 12), ("parameters", 11), ("MACs", 7), ("field", 8), ("memory", 8))
TIME = ("ms", 7)
SHORT = (
    (", stride ", " s"),
    (", padding ", " p"),
    (", dilation ", " d"),
    (", groups ", " g"),
    (", depthwise", " dw"),
    (", bias", ""),  # the parameters show it
)
LEGEND = "s stride, p padding, d dilation, g groups, dw depthwise; field in pixels, all: the whole image"
SIDE = "*: and the whole image through a side branch"
MARKS = {"error": "✗", "warning": "!", "note": "·"}


def summary_lines(summary: Summary) -> list[str]:
    """Return the whole text, no line longer than 100 characters, every layer in it."""
    channels, height, width = summary.input
    title = f"{plain(summary.network)}, {channels}×{height}×{width}: {whole(len(summary.layers))} layers"
    return [title, "", *table_lines(summary), "", *total_lines(summary), *warning_lines(summary.warnings)]


def table_lines(summary: Summary) -> list[str]:
    """Return the table: headings are modules, and rows name their layers relative to them."""
    timed = summary.milliseconds is not None
    columns = (*NUMBERS, TIME) if timed else NUMBERS
    kind = WIDTH - NAME - 1 - sum(width + 1 for _, width in columns)
    head = f"{'layer':<{NAME}} {'what':<{kind}}" + "".join(f" {name:>{width}}" for name, width in columns)
    lines = [head, "─" * WIDTH]
    heading = ""
    for layer in summary.layers:
        path = plain(layer.name)
        if not path.startswith(heading) or "." in path[len(heading) :]:
            heading = path[: path.rfind(".") + 1]
            if heading:
                lines.append(shortened(heading[:-1], WIDTH))
        name = shortened(("  " if heading else "") + path[len(heading) :], NAME)
        what = shortened(_what(layer), kind)
        cells = _cells(layer, timed)
        numbers = "".join(f" {cell:>{width}}" for cell, (_, width) in zip(cells, columns, strict=True))
        lines.append(f"{name:<{NAME}} {what:<{kind}}{numbers}".rstrip())
    side = [SIDE] if any(layer.sees_all and layer.field for layer in summary.layers) else []
    return [*lines, "─" * WIDTH, LEGEND, *side]


def _what(layer: Layer) -> str:
    detail = layer.detail
    for long, short in SHORT:
        detail = detail.replace(long, short)
    return plain(f"{layer.kind} {detail}".strip())


def _cells(layer: Layer, timed: bool) -> list[str]:
    return [
        _shape(layer.shape),
        whole(layer.parameters) if layer.parameters else "",
        amount(layer.macs) if layer.macs else "",
        _field(layer),
        memory(layer.activation_bytes),
        *([_milliseconds(layer.milliseconds)] if timed else []),
    ]


def _field(layer: Layer) -> str:
    return "all" if layer.field is None else sides(layer.field, "×") + "*" * layer.sees_all


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def total_lines(summary: Summary) -> list[str]:
    """Return the sums, the last map's field, and a dense layer's cost in place of the first convolution."""
    rows = [
        ("parameters", _parameters(summary)),
        ("multiply-accumulates", f"{amount(summary.macs)} for one image ({whole(summary.macs)})"),
        ("memory", f"{memory(summary.activation_bytes)} for all outputs of one image in float32"),
        ("receptive field", _sight(summary)),
    ]
    if summary.milliseconds is not None:
        rows.append(("time", f"{summary.milliseconds:.1f} ms for one image on this processor"))
    lines = [f"{name:<22}{text}" for name, text in rows]
    return [line for text in [*lines, *_dense(summary)] for line in _wrapped(text, 22)]


def _parameters(summary: Summary) -> str:
    text = whole(summary.parameters)
    if summary.trainable < summary.parameters:
        text += f", {whole(summary.parameters - summary.trainable)} of them frozen"
    unused = summary.parameters - sum(layer.parameters for layer in summary.layers)
    if unused:
        text += f", {whole(unused)} of them in no layer that runs in evaluation"
    if summary.buffers:
        text += f"; and {whole(summary.buffers)} kept numbers that are not learned"
    return text


def _sight(summary: Summary) -> str:
    if summary.field is None or summary.stride is None or summary.padding is None:
        return "the whole image, from every position"
    step, start = (sides(values, " and ") for values in (summary.stride, summary.padding))
    size = "×".join(map(str, summary.field))
    return f"{size} pixels at the last map; stride {step}, start padding {start}"


def _dense(summary: Summary) -> list[str]:
    first = next((layer for layer in summary.layers if layer.dense_weights and layer.parameters), None)
    if first is None:
        return []
    return [
        f"{'as a dense layer':<22}{plain(first.name)} has {whole(first.parameters)} parameters; a dense layer "
        f"from {_shape(first.input_shape)} to {_shape(first.shape)} numbers would need {whole(first.dense_weights)}"
    ]


def warning_lines(findings: Sequence[Finding]) -> list[str]:
    """Return what a designer should know, one paragraph each, below an empty line."""
    paragraphs = [_wrapped(f"{MARKS.get(f.severity, '·')} {plain(f.message)}", 2) for f in findings]
    return ["", *(line for paragraph in paragraphs for line in paragraph)] if paragraphs else []


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _shape(shape: Sequence[int]) -> str:
    return times(shape).replace(" ", "") or "one"


def inspection_page(summary: Summary) -> str:
    """Return a page (HTML, self-contained, without scripts) about a network: picture, totals, warnings, every layer.

    Names come from the user's code, so all of them are escaped. The boxes of the picture, which is drawn once for wide
    screens and once for narrow ones, link to the rows of the table.
    """
    return filled(
        "inspection.html",
        summary=summary,
        pictures={
            "wide": Markup(architecture_svg(summary, linked=True).strip()),
            "narrow": Markup(architecture_svg(summary, width=NARROW, linked=True).strip()),
        },
        timed=any(layer.milliseconds is not None for layer in summary.layers),
        side=any(layer.sees_all for layer in summary.layers),
        style=Markup(style_sheet()),
    )
