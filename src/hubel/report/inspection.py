"""A network's own page: its picture, its totals, what a designer should know, and every layer in a table."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from hubel.records import Finding, Layer, Summary
from hubel.report.architecture.blocks import times
from hubel.report.architecture.picture import architecture_svg
from hubel.report.colour import ROLES
from hubel.report.wording import NBSP, compact, plain, whole


def inspection_page(summary: Summary) -> str:
    """Return a page (HTML, self-contained, without scripts) about a network.

    Names come from the user's code, so all of them are escaped.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    timed = any(layer.milliseconds is not None for layer in summary.layers)
    page = environment.from_string(_asset("inspection.html")).render(
        name=plain(summary.network),
        facts=_facts(summary),
        picture=Markup(architecture_svg(summary).strip()),
        warnings=[_warning(finding) for finding in summary.warnings],
        timed=timed,
        side=any(layer.sees_all for layer in summary.layers),
        rows=[_row(number, layer) for number, layer in enumerate(summary.layers)],
        style=Markup(_style()),
    )
    return page.lstrip()


def _asset(name: str) -> str:
    return files("hubel.report").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    """The report's roles for both grounds and its style sheet."""

    def variables(column: int) -> str:
        return ":root{" + "".join(f"--{role}:{pair[column]};" for role, pair in ROLES.items()) + "}"

    dark = f"@media screen and (prefers-color-scheme: dark){{{variables(1)}}}"
    return "\n".join((variables(0), dark, _asset("report.css")))


def _facts(summary: Summary) -> list[tuple[str, str]]:
    frozen = summary.parameters - summary.trainable
    facts = [
        ("input", times(summary.input)),
        ("parameters", compact(summary.parameters)),
        *([("of these frozen", compact(frozen))] if frozen else []),
        ("kept, not learned", compact(summary.buffers)),
        ("multiply-accumulates", compact(summary.macs)),
        ("outputs of all layers", _memory(summary.activation_bytes)),
    ]
    if summary.field is not None:
        facts.append(("receptive field", f"{_pair(summary.field)}{NBSP}pixels"))
    if summary.stride is not None:
        facts.append(("total stride", f"{_pair(summary.stride)}{NBSP}pixels"))
    if summary.milliseconds is not None:
        facts.append(("one image takes", f"{summary.milliseconds:.3g}{NBSP}ms"))
    return facts


def _warning(finding: Finding) -> dict[str, str]:
    return {"severity": finding.severity, "message": plain(finding.message)}


def _row(number: int, layer: Layer) -> dict[str, Any]:
    field = "whole image" if layer.field is None else _pair(layer.field)
    return {
        "number": number,
        "name": plain(layer.name),
        "kind": plain(layer.kind),
        "detail": plain(layer.detail),
        "shape": times(layer.shape),
        "parameters": whole(layer.parameters) if layer.parameters else "",
        "macs": whole(layer.macs) if layer.macs else "",
        "memory": _memory(layer.activation_bytes),
        "field": f"{field}*" if layer.sees_all and layer.field is not None else field,
        "stride": "" if layer.stride is None else _pair(layer.stride),
        "milliseconds": "" if layer.milliseconds is None else f"{layer.milliseconds:.3g}",
    }


def _pair(values: tuple[float, float]) -> str:
    """Height and width as one number where they are equal."""
    first, second = (f"{value:.10g}" for value in values)
    return first if first == second else f"{first} × {second}"


def _memory(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g}{NBSP}{unit}"
    return f"{count}{NBSP}B"
