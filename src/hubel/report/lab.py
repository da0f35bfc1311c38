"""A comparison of recipes: as lines for the terminal, and as a page with its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hubel.evaluation.contrast import TRAINING_ERROR, Compared, Difference, Effect
from hubel.evidence import RunRecord
from hubel.report.style import filled, style_sheet
from hubel.report.wording import amount, duration, memory, plain, shortened
from hubel.runs import make_folder, write_bytes, write_text

NAME = 34
COSTS = {  # a row's attribute → title and format of its axis
    "parameters": ("weights", "~s"),
    "macs": ("multiply-accumulates", "~s"),
    "seconds": ("seconds of training", "~f"),
}
DIFFERENT = 1.05  # times as much, at least, to be worth a picture
SHARES = ("accuracy", "validation accuracy", TRAINING_ERROR)  # are told in percent, their differences in points


def lab_lines(found: Compared) -> list[str]:
    """The table, and what it shows, line by line."""
    measure = found.question.measure
    networks = any(row.parameters for row in found.rows)
    head = f"{'':<{NAME}} {measure + ' (95 % interval)':>32}"
    head += f" {'weights':>8} {'MACs':>7} {'memory':>8} {'training':>11}" if networks else ""
    lines = ["", head, "─" * len(head)]
    for row in found.rows:
        line = f"{shortened(plain(row.variant), NAME):<{NAME}} {value_text(row.value, measure):>32}"
        if networks:
            line += f" {amount(round(row.parameters)):>8} {amount(round(row.macs)):>7} {memory(round(row.memory)):>8}"
            line += f" {duration(row.seconds):>11}"
        lines.append(line)
    lines += [f"  {plain(row.variant)}: {plain(row.error)}" for row in found.rows if row.error]
    lines += ["", *(f"{plain(d.words)}: {d.verdict}, {difference_text(d, measure)}" for d in found.differences)]
    return [*lines, "", f"page: {found.folder}/report.html"]


def value_text(value: Effect | None, measure: str) -> str:
    """A value with its interval: ``91.2 % (90.1 to 92.3)``."""
    if value is None:
        return "failed"
    scale, unit = (100, " %") if measure in SHARES else (1, "")
    if value.seeds < 2:
        return f"{scale * value.value:.3g}{unit} (one seed)"
    digits = 1 if measure in SHARES else 2
    ends = (min(max(end, 0.0), 1.0) if measure in SHARES else end for end in (value.low, value.high))
    low, high = (f"{scale * end:.{digits}f}" for end in ends)
    return f"{scale * value.value:.{digits}f}{unit} ({low} to {high})"


def difference_text(each: Difference, measure: str) -> str:
    """A difference with its interval, and what it was counted on."""
    if each.value is None:
        return "no seed came to an end with all of them"
    scale, unit, digits = (100, " points", 1) if measure in SHARES else (1, "", 2)
    low, high = (f"{scale * end:+.{digits}f}" for end in (each.value.low, each.value.high))
    line = f", more than {scale * each.least:+.{digits}f} was asked" if each.least else ""
    seeds = f"{each.value.seeds} seeds" if each.value.seeds > 1 else "one seed, which can't tell"
    counted = f", n = {each.value.images:,}" if each.value.images else ""
    return f"{scale * each.value.value:+.{digits}f}{unit} ({low} to {high}; {seeds}{counted}{line})"


def write_page(folder: Path, found: Compared, title: str = "", text: Sequence[str] = ()) -> Path:
    """Write report.html and pictures/*.png into a lab's folder; returns the page's path.

    Args:
        title, text: of a claim, with what is to be said of it before the table.
    """
    from hubel.report import charts

    drawn = {"values": charts.svg(values_chart(found))}
    if (costs := costs_chart(found)) is not None:
        drawn["costs"] = charts.svg(costs)
    if found.question.measure == TRAINING_ERROR:
        drawn = {"curves": charts.svg(curves_chart(folder, found))} | drawn
    pictures = make_folder(folder / "pictures")
    for name, drawing in drawn.items():
        write_bytes(pictures / f"{name}.png", charts.png(drawing))
    measure = found.question.measure
    page = filled(
        "lab.html",
        title=title or f"{len(found.rows)} recipes compared",
        text=text,
        found=found,
        networks=any(row.parameters for row in found.rows),
        style=Markup(style_sheet(charts=True)),
        pictures={name: Markup(drawing) for name, drawing in drawn.items()},
        values={row.variant: value_text(row.value, measure) for row in found.rows},
        sentences=[(d.verdict, f"{d.words}: {difference_text(d, measure)}") for d in found.differences],
        recipe=found.question.recipe.splitlines(),
        amount=lambda number: amount(round(number)),
        bytes=lambda number: memory(round(number)),
        duration=duration,
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def values_chart(found: Compared) -> Any:
    """Each variant's value with its interval; where two settings were varied, one of them by colour."""
    import altair as alt

    from hubel.report.charts import ACCENT, INK

    names = list(dict.fromkeys(name for row in found.rows for name in row.settings))
    share = found.question.measure in SHARES
    grid = len(names) == 2 and all(len(row.settings) == 2 for row in found.rows)
    two = grid and all(len({str(row.settings[name]) for row in found.rows}) > 1 for name in names)
    rows = [
        {
            "row": str(row.settings[names[0]]) if two else row.variant,
            "group": str(row.settings[names[1]]) if two else "",
            "value": row.value.value,
            "low": max(row.value.low, 0.0) if share else row.value.low,
            "high": min(row.value.high, 1.0) if share else row.value.high,
        }
        for row in found.rows
        if row.value is not None
    ]
    extent = 8 * max(len(str(row["row"])) for row in rows) if rows else 0  # the reader's font may be wider than ours
    axis = alt.Axis(
        domain=False, ticks=False, grid=False, labelLimit=260, labelPadding=6, labelColor=INK, minExtent=extent
    )
    y = alt.Y("row:N", sort=None, title=names[0] if two else None, axis=axis)
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    if two:
        base = base.encode(yOffset=alt.YOffset("group:N", sort=None), color=_colours("group", rows, names[1]))
    x = _value_axis(alt.X, found.question.measure)
    spans = base.mark_rule(strokeWidth=2, **({} if two else {"color": ACCENT})).encode(x=_like(x, "low"), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1, **({} if two else {"color": ACCENT})).encode(x=x)
    return (spans + dots).properties(width=420, height=alt.Step(24))


def costs_chart(found: Compared) -> Any:
    """The value against each cost that differs; the variants that nothing beats in both are joined. None without."""
    import altair as alt

    from hubel.report.charts import MUTED

    better = -1 if found.question.measure in (TRAINING_ERROR, "seconds") else 1
    y, panels = _value_axis(alt.Y, found.question.measure), []
    for cost, (title, form) in COSTS.items():
        rows = [
            {"name": shortened(row.variant, 24), "cost": getattr(row, cost), "value": row.value.value}
            for row in found.rows
            if row.value is not None and getattr(row, cost) > 0
        ]
        least, most = (pick([row["cost"] for row in rows], default=0.0) for pick in (min, max))
        if most <= DIFFERENT * least:
            continue
        front = [row for row in rows if not any(_beats(other, row, better) for other in rows)]
        scale = alt.Scale(type="log" if most > 5 * least else "linear", zero=False, padding=16)
        x = alt.X("cost:Q", title=title, scale=scale, axis=alt.Axis(format=form, tickCount=3, domain=False))
        steps = alt.Chart(alt.Data(values=front)).mark_line(color=MUTED, strokeDash=[3, 3], interpolate="step-after")
        dots = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=70, opacity=1)
        dots = dots.encode(x=x, y=y, color=_colours("name", rows, ""))
        panels.append((steps.encode(x=x, y=y) + dots).properties(width=190, height=190))
    return alt.hconcat(*panels, spacing=26) if panels else None


def curves_chart(folder: Path, found: Compared) -> Any:
    """Training error by epoch: the mean of each variant's seeds, and in faint lines each of them."""
    import altair as alt

    rows = []
    for trial in found.trials:
        if trial.run:
            history = RunRecord(folder / trial.run).history
            rows += [
                {"name": trial.variant, "seed": trial.seed, "epoch": row.epoch, "value": 1 - row.train_accuracy}
                for row in history
            ]
    axis = alt.Axis(format="d", tickCount=6, grid=False)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=axis, scale=alt.Scale(nice=False, zero=False)),
        color=_colours("name", rows, ""),
    )
    y = _value_axis(alt.Y, TRAINING_ERROR)
    seeds = base.mark_line(strokeWidth=1, opacity=0.35).encode(y=y, detail="seed:N")
    return (seeds + base.mark_line(strokeWidth=2.5).encode(y=_mean(y))).properties(width=420, height=260)


def _beats(a: dict[str, Any], b: dict[str, Any], better: int) -> bool:
    good, cheap = better * (a["value"] - b["value"]), b["cost"] - a["cost"]
    return bool(good >= 0 and cheap >= 0 and (good > 0 or cheap > 0))


def _value_axis(kind: Any, measure: str) -> Any:
    import altair as alt

    from hubel.report.charts import PERCENT_AXIS

    words = {"labelExpr": PERCENT_AXIS} if measure in SHARES else {"format": "~g"}
    return kind(
        "value:Q", title=measure, scale=alt.Scale(zero=False), axis=alt.Axis(domain=False, tickCount=5, **words)
    )


def _like(axis: Any, name: str) -> Any:
    other = axis.copy(deep=False)
    other.shorthand = f"{name}:Q"
    return other


def _mean(axis: Any) -> Any:
    return _like(axis, "mean(value)")


def _colours(name: str, rows: Sequence[dict[str, Any]], title: str) -> Any:
    """One colour each, even in lightness, so that they read in print and on a dark screen."""
    import altair as alt

    from hubel.report.style import from_oklch, hexed

    names = list(dict.fromkeys(row[name] for row in rows))
    hues = 252.0 + np.arange(len(names)) * 360.0 / max(len(names), 1)
    colours = [hexed(colour) for colour in from_oklch(np.full(len(names), 0.62), np.full(len(names), 0.14), hues)]
    columns = max(1, 56 // max(len(str(each)) + 4 for each in names)) if names else 1
    legend = alt.Legend(columns=columns, columnPadding=40, symbolOpacity=1)
    return alt.Color(
        f"{name}:N", title=title or None, scale=alt.Scale(domain=names, range=colours), sort=None, legend=legend
    )
