// The list of runs, their curves laid over each other, and trainings that are started and stopped here.
import { chart } from "./chart.js";
import { api, attempt, field, h, say } from "./dom.js";
import { ask, follow, of, percent } from "./follow.js";
import { single } from "./run.js";

const SAID = { training: "training now", stopped: "not finished", finished: "finished", damaged: "damaged" };
const COLUMNS = ["run", "state", "network", "accuracy", "95 % interval", "images", "best on validation", "epochs", "took"];
const link = (given) => `#/runs?${new URLSearchParams(given)}`;

function duration(seconds) {
  if (seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export async function mount(root, query) {
  const ends = [];
  const leave = () => ends.forEach((end) => end());
  try {
    await (query.get("run") ? single(root, query.get("run"), ends) : list(root, query, ends));
  } catch (error) {
    leave();
    throw error;
  }
  return leave;
}

async function list(root, query, ends) {
  const table = h.div({ class: "scroll all-runs", tabindex: "0", role: "region", "aria-label": "All runs" });
  const [verdict, begun] = [h.div(), h.ul({ class: "begun" })];
  const [accuracy, loss] = [chart("Validation accuracy", { y: (value) => percent(value, 0) }), chart("Validation loss")];
  const curves = h.div({ class: "line-charts" }, accuracy.figure, loss.figure);
  const followed = new Map(); // name → { curve, end, open }
  let going = new Set(); // the names of those that are being trained
  let chosen = (query.get("compare") ?? "").split(",").filter(Boolean);
  root.append(h.h1("Runs"), starter(() => refresh()), begun, table, verdict,
    h.section({ class: "compared" }, h.h2("Curves of the ticked runs"), curves));

  function draw() {
    const rows = (run) => followed.get(run)?.curve?.epochs ?? [];
    const series = (name) => chosen.map((run, at) => ({ name: run, tone: at % 6, points: of(rows(run), name), dots: true }));
    accuracy.draw(series("val_accuracy"));
    loss.draw(series("val_loss"));
  }
  function tick(run, on) {
    chosen = on ? [...chosen, run] : chosen.filter((each) => each !== run);
    history.replaceState(null, "", chosen.length ? link({ compare: chosen.join(",") }) : "#/runs");
    offer();
    followAll();
  }
  function offer() {
    const compare = async () => {
      const said = await api(ask("compare", { a: chosen[0], b: chosen[1] }));
      const lines = h.pre({ tabindex: "0" }, said.lines.slice(1).join("\n"));
      verdict.replaceChildren(h.p({ class: "notice" }, said.verdict), h.details(h.summary("class by class"), lines));
    };
    const button = h.button({ onclick: () => attempt(compare) }, "Is one of the two better?");
    verdict.replaceChildren(...(chosen.length === 2 ? [button] : []));
  }
  function followAll() {
    for (const [run, { end }] of followed) if (!chosen.includes(run)) { end(); followed.delete(run); }
    for (const run of chosen) {
      const kept = followed.get(run) ?? { curve: null, end: () => {}, open: false };
      if (kept.open || (kept.curve && !going.has(run))) continue;
      followed.set(run, Object.assign(kept, { open: true }));
      const shut = follow(run, (curve) => {
        kept.curve = curve;
        if (curve.finished || !going.has(run)) kept.end(); // a browser keeps few connections
        draw();
      });
      kept.end = () => { kept.open = false; shut(); };
    }
    draw();
  }
  ends.push(() => followed.forEach(({ end }) => end()));

  const stop = (name) => attempt(async () => { await api("/api/stop", { name }); await refresh(); });
  const row = (run) => {
    const show = { type: "checkbox", "data-run": run.name, "aria-label": `Show the curves of ${run.name}` };
    const interval = run.interval ? run.interval.map((end) => percent(end)).join(" – ") : "–";
    const epochs = run.epoch ? `${run.epoch} of ${run.epochs}` : "–";
    const images = run.n?.toLocaleString("en") ?? "–";
    const numbers = [percent(run.accuracy), interval, images, percent(run.validation), epochs, duration(run.seconds)];
    return h.tr(
      h.td(h.input({ ...show, checked: chosen.includes(run.name), onchange: (event) => tick(run.name, event.target.checked) })),
      h.th({ scope: "row" }, h.a({ href: link({ run: run.name }) }, run.name)),
      h.td({ class: `state ${run.state}`, title: run.error }, SAID[run.state]),
      h.td(run.network ?? "–"), numbers.map((text) => h.td({ class: "n" }, text)));
  };

  async function refresh() {
    const { runs, folders, trainings } = await api("/api/runs");
    going = new Set(runs.filter((run) => run.state === "training").map((run) => run.name));
    begun.replaceChildren(...trainings.map((each) =>
      h.li(each.running ? h.button({ onclick: () => stop(each.name) }, `Stop ${each.name}`) : h.span(each.said))));
    if (!runs.length) {
      const how = [h.code("hubel train photos/"), " makes one, or start one above."];
      return table.replaceChildren(h.p(`No runs yet in ${folders.join(", ")}: `, how));
    }
    if (!query.has("compare") && !chosen.length) {
      const sound = runs.filter((run) => ["training", "finished"].includes(run.state));
      chosen = (sound.length ? sound : runs).slice(0, going.size ? 1 : 2).map((run) => run.name);
    }
    const focused = document.activeElement?.dataset?.run;
    const head = COLUMNS.map((text, at) => h.th({ class: at > 2 ? "n" : "", scope: "col" }, text));
    table.replaceChildren(h.table({ class: "rows" }, h.thead(h.tr(h.td(), head)), h.tbody(runs.map(row))));
    if (focused) table.querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
    return undefined;
  }
  await refresh();
  offer();
  followAll();
  const timer = setInterval(() => refresh().then(followAll, (error) => say(error.message)), 4000);
  ends.push(() => clearInterval(timer));
}

function starter(started) {
  const [source, name] = [h.input({ type: "text", value: "digits" }), h.input({ type: "text" })];
  const minutes = h.input({ type: "number", value: 1, min: 0.1, step: "any" });
  const start = async () => {
    await api("/api/train", { source: source.value, minutes: minutes.valueAsNumber, name: name.value });
    await started();
  };
  const onsubmit = (event) => { event.preventDefault(); attempt(start); };
  return h.details({ class: "starter" }, h.summary("Start a training"), h.form({ class: "bar-of-controls", onsubmit },
    field("images: a folder, a CSV, or a set’s name", source), field("minutes", minutes), field("name of the run", name),
    h.button({ class: "primary" }, "Start")));
}
