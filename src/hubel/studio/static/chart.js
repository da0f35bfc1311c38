// A line chart as SVG: axes with round numbers, a legend, and the values under the pointer.
import { drawing, h, number } from "./dom.js";

const [WIDE, TALL, LEFT, BELOW, TOP] = [560, 260, 52, 30, 12];

function ticks(low, high, most = 5) {
  const rough = (high - low) / most || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * unit >= rough) * unit;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step - first + 1e-9) + 1) }, (_, i) => (first + i) * step);
}

/** `draw(series, said)` draws anew. A series is { name, tone: 0…5, points: [[x, y], …], faint, dots }. */
export function chart(title, { x = "step", y = number, high = null } = {}) {
  const canvas = drawing("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, role: "img", "aria-label": title });
  const [legend, under] = [h.ul({ class: "legend" }), h.p({ class: "quiet under" })];
  const figure = h.figure({ class: "line-chart" }, h.h2(title), canvas, legend, under);
  let state = null;

  function draw(series) {
    const points = series.flatMap((each) => each.points).filter((point) => Number.isFinite(point[1]));
    legend.replaceChildren(...series.map((each) => h.li({ class: `tone${each.tone}` }, h.i({ class: each.faint ? "faint" : "" }), each.name)));
    if (!points.length) {
      state = null;
      return canvas.replaceChildren(drawing("text", { x: WIDE / 2, y: TALL / 2, "text-anchor": "middle" }, "nothing yet"));
    }
    const firm = series.filter((each) => !each.faint).flatMap((each) => each.points.map((point) => point[1])).filter(Number.isFinite);
    const values = (firm.length > 3 ? firm : points.map((point) => point[1])).toSorted((a, b) => a - b);
    const last = Math.max(1, ...points.map((point) => point[0]));
    let [bottom, top] = [values[0], high ?? values.at(-1)];
    if (bottom > 0 && bottom < 0.4 * top) bottom = 0;
    const room = (top - bottom || Math.abs(top) || 1) * 0.06;
    [bottom, top] = [bottom && bottom - room, high ?? top + room];
    const across = (value) => LEFT + ((WIDE - LEFT - 12) * value) / last;
    const up = (value) => TOP + (TALL - TOP - BELOW) * (1 - (Math.min(top, Math.max(bottom, value)) - bottom) / (top - bottom));
    const parts = [
      ...ticks(bottom, top).map((value) => drawing("g", {},
        drawing("line", { x1: LEFT, x2: WIDE - 12, y1: up(value), y2: up(value) }),
        drawing("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" }, y(value)))),
      ...ticks(0, last).map((value) => drawing("text", { x: across(value), y: TALL - 12, "text-anchor": "middle" }, value.toLocaleString("en"))),
    ];
    for (const each of series) {
      const kept = each.points.filter((point) => Number.isFinite(point[1]));
      const path = kept.map(([a, b]) => `${across(a).toFixed(1)},${up(b).toFixed(1)}`).join(" ");
      const kind = `tone${each.tone}${each.faint ? " faint" : ""}`;
      parts.push(drawing("polyline", { points: path, class: kind }));
      if (each.dots || kept.length === 1) parts.push(...kept.map(([a, b]) => drawing("circle", { cx: across(a), cy: up(b), r: 3, class: kind })));
    }
    const cross = drawing("line", { class: "cross", y1: TOP, y2: TALL - BELOW, visibility: "hidden" });
    canvas.replaceChildren(...parts, cross);
    state = { series, last, across, cross };
    return undefined;
  }

  canvas.addEventListener("pointermove", (event) => {
    if (!state) return;
    const box = canvas.getBoundingClientRect();
    const place = (((event.clientX - box.left) / box.width) * WIDE - LEFT) / (WIDE - LEFT - 12);
    const wanted = Math.min(1, Math.max(0, place)) * state.last;
    const near = (points) => points.reduce((best, point) => (Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best), points[0]);
    const found = state.series.filter((each) => each.points.length).map((each) => [each.name, near(each.points)]);
    for (const side of ["x1", "x2"]) state.cross.setAttribute(side, state.across(wanted));
    state.cross.setAttribute("visibility", "visible");
    under.textContent = found.map(([name, [at, value]]) => `${name} ${y(value)} (${x} ${at.toLocaleString("en")})`).join(" · ");
  });
  canvas.addEventListener("pointerleave", () => {
    state?.cross.setAttribute("visibility", "hidden");
    under.textContent = "";
  });
  return { figure, draw };
}

/** A mean over the last ones, so that the noise of single batches does not hide where the loss goes. */
export function smoothed(points, share = 0.92) {
  let [mean, weight] = [0, 0];
  return points.filter((point) => Number.isFinite(point[1])).map(([at, value]) => {
    [mean, weight] = [share * mean + (1 - share) * value, share * weight + (1 - share)];
    return [at, mean / weight];
  });
}
