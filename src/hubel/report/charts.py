"""The report's charts: each is defined once and drawn as an SVG for the page and as a PNG file.

Importing this module imports altair and vl_convert (about a second); `hubel.report.page` does so when it draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from hubel.evaluation.intervals import wilson_interval
from hubel.events import EpochRow
from hubel.evidence import RunRecord
from hubel.records import ClassScore
from hubel.report.confusion import Grid
from hubel.report.story import best_epoch
from hubel.report.style import PAPER, ROLES, shades
from hubel.report.wording import plain, shortened

INK, MUTED, LINE, ACCENT, SECOND = (ROLES[role][0] for role in ("ink", "muted", "line", "accent", "second"))
FONTS = "Roboto, Helvetica Neue, Arial, sans-serif"
PERCENT_AXIS = "format(100 * datum.value, '.6~f') + ' %'"  # digits enough that no two ticks read alike
WIDTH, HEIGHT = 225, 190
MOST_ROWS = 60


def svg(chart: Any) -> str:
    """Draw a chart on a transparent ground; colours are the paper column of `hubel.report.style.ROLES`."""
    version = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
    drawn: str = vl_convert.vegalite_to_svg(_styled(chart).to_dict(validate=False), vl_version=version)
    return drawn


def png(drawn: str) -> bytes:
    """Turn an SVG into a PNG of twice its size on white."""
    opening = re.match(r"<svg[^>]*>", drawn)
    assert opening is not None
    ground = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    picture: bytes = vl_convert.svg_to_png(drawn[: opening.end()] + ground + drawn[opening.end() :], scale=2)
    return picture


def for_page(
    history: Sequence[EpochRow], told: Mapping[str, Any], moments: Sequence[tuple[int, int]] = ()
) -> dict[str, str]:
    """The page's charts as SVG: reliability and coverage; loss, accuracy and rate, if there is a history.

    Args:
        moments: number and step of each finding of the training, marked in the loss.
    """
    drawn = {draw.__name__: svg(draw(told[draw.__name__])) for draw in (reliability, coverage)}
    if not history:
        return drawn
    marked = loss(history) if not moments else alt.layer(loss(history), _moments(history, moments))
    return drawn | {"loss": svg(marked)} | {draw.__name__: svg(draw(history)) for draw in (accuracy, rate)}


def for_files(run: RunRecord, grid: Grid, told: Mapping[str, Any]) -> dict[str, str]:
    """The charts that also become PNG files, as SVG by the name of the file."""
    weakest_first = sorted(run.scores.per_class, key=lambda c: (c.support == 0, c.recall))
    drawn = {"confusion": svg(confusion(grid)), "per_class": svg(per_class(weakest_first))}
    both = alt.hconcat(reliability(told["reliability"]), coverage(told["coverage"]), spacing=30)
    return drawn | {"confidence": svg(both)} | ({"curves": svg(curves(run.history))} if run.history else {})


def loss(history: Sequence[EpochRow]) -> Any:
    """Training and validation loss by epoch; logarithmic when the values span more than a factor of fifty."""
    values = [v for row in history for v in (row.train_loss, row.val_loss) if math.isfinite(v) and v > 0]
    wide = bool(values) and max(values) > 50 * min(values)
    scale = alt.Scale(type="log") if wide else alt.Scale(zero=False)
    axis = alt.Axis(format="~g", tickCount=5, domain=False)
    return _by_epoch(history, ("train_loss", "val_loss"), alt.Y("value:Q", title="loss, nats", scale=scale, axis=axis))


def accuracy(history: Sequence[EpochRow]) -> Any:
    """Training and validation accuracy by epoch."""
    y = alt.Y("value:Q", title="accuracy", scale=alt.Scale(zero=False), axis=_percent_axis(tickCount=5))
    return _by_epoch(history, ("train_accuracy", "val_accuracy"), y)


def rate(history: Sequence[EpochRow]) -> Any:
    """Learning rate at the end of each epoch."""
    rows = [_finite({"epoch": row.epoch, "value": row.lr}) for row in history]
    y = alt.Y("value:Q", title="learning rate", axis=alt.Axis(format="~g", tickCount=3, domain=False))
    line = alt.Chart(alt.Data(values=rows)).mark_line(color=MUTED, strokeWidth=1.5, point=_point(history, color=MUTED))
    return line.encode(x=_epoch_axis(history, most=4), y=y).properties(width=115, height=HEIGHT)


def curves(history: Sequence[EpochRow]) -> Any:
    """Loss, accuracy and learning rate in one picture."""
    return alt.hconcat(loss(history), accuracy(history), rate(history), spacing=30)


def reliability(series: Mapping[str, Sequence[tuple[int, float, float]]]) -> Any:
    """The share of right answers by confidence, with 95 % intervals; each series is (images, confidence, accuracy)."""
    rows = [
        {"series": name, "confidence": sure, "accuracy": right, "low": low, "high": high}
        for name, bins in series.items()
        for n, sure, right in bins
        for low, high in [wilson_interval(round(n * right), n)]
    ]
    whole, few = alt.Scale(domain=[0, 1]), _percent_axis(tickCount=4)
    x = alt.X("confidence:Q", title="confidence", scale=whole, axis=few)
    y = alt.Y("accuracy:Q", title="answers that are right", scale=whole, axis=few)
    legend, two = alt.Legend(columns=1) if len(series) > 1 else None, ("as it answers", "without temperature")
    colour = alt.Color("series:N", title=None, scale=_two_colours(*two), legend=legend)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour)
    ends = alt.Chart(alt.Data(values=[{"confidence": end, "accuracy": end} for end in (0, 1)]))
    diagonal = ends.mark_line(color=MUTED, strokeDash=[2, 3], strokeWidth=1).encode(x=x, y=y)
    spans = base.mark_rule().encode(y=alt.Y("low:Q", title=None), y2="high:Q")
    lines = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=22, filled=True, opacity=1)).encode(y=y)
    return (diagonal + spans + lines).properties(width=WIDTH, height=HEIGHT)


def coverage(curve: Sequence[dict[str, float]]) -> Any:
    """Accuracy among the surest answers, by the share of images that they are."""
    x = alt.X("share:Q", title="images answered, the surest first", axis=_percent_axis(tickCount=4))
    y = alt.Y("accuracy:Q", title="accuracy among them", scale=alt.Scale(zero=False), axis=_percent_axis(tickCount=5))
    line = alt.Chart(alt.Data(values=curve)).mark_line(color=ACCENT, strokeWidth=2)
    return line.encode(x=x, y=y).properties(width=WIDTH, height=HEIGHT)


def per_class(classes: Sequence[ClassScore]) -> Any:
    """Recall and precision of each class in the given order, at most `MOST_ROWS` of them."""
    rows = [
        {"name": _label(c.name, i), "measure": measure, "value": value}
        for i, c in enumerate(classes[:MOST_ROWS])
        for measure, value in (("recall", c.recall), ("precision", c.precision))
    ]
    base = alt.Chart(alt.Data(values=[_finite(row) for row in rows])).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=_quiet_axis(labelColor=INK, labelExpr=_NAME)),
    )
    x = alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=_percent_axis(tickCount=5))
    colour = alt.Color("measure:N", title=None, scale=_two_colours("recall", "precision"))
    shape = alt.Shape(
        "measure:N", title=None, scale=alt.Scale(domain=["recall", "precision"], range=["circle", "square"])
    )
    span = base.mark_line(color=LINE, strokeWidth=2).encode(x=x, detail="name:N")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, color=colour, shape=shape)
    return (span + dots).properties(width=420, height=alt.Step(20))


def confusion(grid: Grid) -> Any:
    """The confusion matrix of the grid's classes: counts, shaded by the share of their row."""
    names, colours = [_label(name, i) for i, name in enumerate(grid.names)], shades(dark=False)
    rows = [
        {"true": true, "predicted": predicted, "count": str(cell.count or ""), "fill": fill, "ink": ink}
        for true, line in zip(names, grid.rows, strict=True)
        for predicted, cell in zip(names, line, strict=True)
        for fill, ink in [colours[cell.level]]
    ]
    size = 30 if len(names) <= 15 else 24
    across = _quiet_axis(labelExpr=_NAME, labelColor=INK, labelAngle=-50, orient="bottom")
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("predicted:N", sort=None, title="predicted", axis=across),
        y=alt.Y("true:N", sort=None, title="label", axis=_quiet_axis(labelExpr=_NAME, labelColor=INK)),
    )
    cells = base.mark_rect(stroke=LINE, strokeWidth=0.5).encode(color=alt.Color("fill:N", scale=None))
    counts = base.mark_text(fontSize=10).encode(text="count:N", color=alt.Color("ink:N", scale=None))
    return (cells + counts).properties(width=alt.Step(size), height=alt.Step(size))


# Class names may repeat once they are shortened, so charts tell them apart by a number that is not shown.
_NAME = "slice(datum.value, indexof(datum.value, ' ') + 1)"


def _label(name: str, place: int) -> str:
    return f"{place} {shortened(plain(name), 28)}"


def _by_epoch(history: Sequence[EpochRow], fields: tuple[str, str], y: Any) -> Any:
    rows = [
        _finite({"epoch": row.epoch, "part": part, "value": getattr(row, field)})
        for row in history
        for field, part in zip(fields, ("training", "validation"), strict=True)
    ]
    lines = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2, point=_point(history))
    dash = alt.Scale(domain=["validation", "training"], range=[[1, 0], [5, 3]])
    legend = alt.Legend(symbolType="stroke", columnPadding=18, offset=20)
    lines = lines.encode(
        x=_epoch_axis(history),
        y=y,
        color=alt.Color("part:N", title=None, scale=_two_colours("validation", "training"), legend=legend),
        strokeDash=alt.StrokeDash("part:N", title=None, scale=dash, legend=legend),
    )
    best = best_epoch(tuple(history))
    chart = lines if best is None else _best_mark(history, best) + lines
    return chart.properties(width=WIDTH, height=HEIGHT)


def _moments(history: Sequence[EpochRow], moments: Sequence[tuple[int, int]]) -> Any:
    """A line at each moment with its number; several at once stand side by side."""
    steps, epochs = [0, *(row.step for row in history)], [history[0].epoch - 1, *(row.epoch for row in history)]
    places: dict[float, list[str]] = {}
    for number, step in moments:
        place = max(float(np.interp(step, steps, epochs)), float(history[0].epoch))
        places.setdefault(round(place, 1), []).append(str(number))
    base = alt.Chart(alt.Data(values=[{"epoch": at, "text": ", ".join(names)} for at, names in places.items()]))
    x = _epoch_axis(history)
    rule = base.mark_rule(color=INK, strokeWidth=1.5).encode(x=x)
    return rule + base.mark_text(color=INK, align="left", dx=3, dy=8, baseline="top").encode(
        x=x, y=alt.value(0), text="text:N"
    )


def _best_mark(history: Sequence[EpochRow], best: EpochRow) -> Any:
    base = alt.Chart(alt.Data(values=[{"epoch": best.epoch, "text": f"best: epoch {best.epoch}"}]))
    late = best.epoch > (history[0].epoch + history[-1].epoch) / 2
    x = _epoch_axis(history)
    rule = base.mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x=x)
    text = base.mark_text(color=MUTED, align="right" if late else "left", dy=-4, baseline="bottom")
    return rule + text.encode(x=x, y=alt.value(0), text="text:N")


def _epoch_axis(history: Sequence[EpochRow], most: int = 6) -> Any:
    first, last = (history[0].epoch, history[-1].epoch) if history else (1, 1)
    domain = [first - 1, last + 1] if first == last else [first, last]
    axis = alt.Axis(values=epoch_ticks(first, last, most), format="d", grid=False)
    return alt.X("epoch:Q", title="epoch", scale=alt.Scale(domain=domain, nice=False), axis=axis)


def epoch_ticks(first: int, last: int, most: int) -> list[int]:
    """Both ends, and round numbers between them that keep their distance; about `most` in all."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if (last - first) / step < most)
    inner = range(step * (first // step + 1), last, step)
    return sorted({first, last, *(tick for tick in inner if min(tick - first, last - tick) > step / 2 or step == 1)})


def _point(history: Sequence[EpochRow], **settings: Any) -> Any:
    return alt.OverlayMarkDef(size=22, filled=True, opacity=1, **settings) if len(history) <= 40 else False


def _two_colours(first: str, second: str) -> Any:
    return alt.Scale(domain=[first, second], range=[ACCENT, SECOND])


def _percent_axis(**settings: Any) -> Any:
    return alt.Axis(labelExpr=PERCENT_AXIS, domain=False, **settings)


def _quiet_axis(**settings: Any) -> Any:
    return alt.Axis(domain=False, ticks=False, grid=False, labelLimit=200, labelPadding=6, **settings)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _styled(chart: Any) -> Any:
    words = {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": LINE, "tickColor": LINE, "domainColor": LINE, "titleFontWeight": "normal"}
    strokes = {"symbolStrokeWidth": 2, "symbolSize": 120, "orient": "top", "offset": 4}
    return chart.configure(
        aria=False,
        background="transparent",
        font=FONTS,
        padding=4,
        view={"stroke": None},
        axis=words | lines,
        axisY={"titlePadding": 12},
        legend={"labelColor": INK, "labelFontSize": 12} | strokes,
    )
