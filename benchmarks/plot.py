"""Draw docs/speed.svg from what stands in benchmarks/results: how many times faster than the best peer, and the goals.

python benchmarks/plot.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WIDTH = 420  # pixels
INK, BAR, GOAL = "#3b3f46", "#4c78a8", "#d95f02"


def ratios() -> list[dict[str, Any]]:
    """One row for each ratio that was measured."""
    rows: list[dict[str, Any]] = []

    def add(file: str, what: str, goal: float, *path: str) -> None:
        if (RESULTS / file).exists():
            value: Any = json.loads((RESULTS / file).read_text())
            for name in path:
                value = value.get(name, {})
            if value:
                rows.append({"what": what, "times": float(value), "goal": goal})

    add("speed.json", "CIFAR-10 to 85 %, against the course's loop", 80, "times faster")
    loader = "hubel's loader against torchvision's"
    sets = (
        ("CIFAR-10", "loaders-small.json"),
        ("photos of 224 pixels", "loaders-photos.json"),
        ("photos of 12 megapixels", "loaders-camera.json"),
    )
    for data, file in sets:
        add(file, f"loader, {data}, later epochs, against torchvision's", 8, loader, "later epochs", "times")
        add(file, f"loader, {data}, first epoch, against torchvision's", 1.5, loader, "first epoch", "times")
    for kind, file in (("bfloat16", "photos.json"), ("float32, AVX2", "photos-avx2.json")):
        what = f"ResNet-18 on photos ({kind}), against the best peer"
        add(file, what, 1.5, "hubel against the best peer", "all epochs", "times")
    add("processes.json", "two processes, against one", 1.8, "times", "median")
    return rows


def main() -> None:
    measured = ratios()
    doublings = math.ceil(math.log2(max(max(row["times"], row["goal"]) for row in measured)))
    rows = alt.Chart(alt.Data(values=measured)).encode(y=alt.Y("what:N", sort=None, title=None))
    scale = alt.Scale(type="log", domain=[0.5, 2**doublings], nice=False)
    axis = alt.Axis(values=[2**n for n in range(-1, doublings + 1)], title="times faster (the tick is the goal)")
    bars = rows.mark_bar(color=BAR, height=14).encode(x=alt.X("times:Q", scale=scale, axis=axis), x2=alt.datum(1))
    goals = rows.mark_tick(color=GOAL, thickness=3, height=22).encode(x=alt.X("goal:Q", scale=scale))
    said = rows.mark_text(align="left", color=INK, clip=False).encode(
        x=alt.value(WIDTH + 10), text=alt.Text("times:Q", format=".3~g")
    )
    chart = (bars + goals + said).properties(width=WIDTH, height=alt.Step(34))
    chart = chart.configure_axis(labelLimit=380, labelColor=INK, titleColor=INK, gridColor="#e6e6e6")
    svg = vl_convert.vegalite_to_svg(chart.configure_view(stroke=None).to_json())
    (ROOT / "docs" / "speed.svg").write_text(svg)


if __name__ == "__main__":
    main()
