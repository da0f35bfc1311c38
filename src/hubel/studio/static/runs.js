// Runs: what there is, curves that grow while a training goes on, and what a finished run got right and wrong.
import { chart, smoothed } from "./chart.js";
import { api, attempt, element, field, say, select } from "./dom.js";

const percent = (value, digits = 1) => (value === undefined || value === null ? "–" : `${(100 * value).toFixed(digits)} %`);
const short = (value) => `${Math.round(100 * value)} %`;
const ask = (path, given) => `/api/${path}?${new URLSearchParams(Object.entries(given).filter(([, value]) => value !== "" && value !== undefined))}`;
const link = (given) => `#/runs?${new URLSearchParams(given)}`;
const SAID = { training: "training now", stopped: "not finished", finished: "finished", damaged: "damaged" };
const duration = (seconds) => (seconds === undefined ? "–" : seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);

/** Follow a run's log; `grown(curve)` is called when it says more. Returns what ends it. */
function follow(run, grown) {
  const curve = { steps: [], epochs: [], findings: [], finished: false };
  const source = new EventSource(ask("events", { run }));
  const take = (message) => {
    for (const event of JSON.parse(message.data)) {
      const before = (each) => each.step < event.step;
      if (event.event === "step") { // one that was there before is made again by a training that was killed
        if (event.step <= (curve.steps.at(-1)?.step ?? 0)) curve.steps = curve.steps.filter(before);
        curve.steps.push({ step: event.step, loss: event.loss ?? NaN, lr: event.lr });
      } else if (event.event === "epoch_row") {
        curve.epochs = [...curve.epochs.filter(before), event];
      } else if (event.event === "finding") curve.findings.push(event);
      else curve.finished = true;
    }
    grown(curve);
  };
  source.addEventListener("reset", (message) => {
    Object.assign(curve, { steps: [], epochs: [], findings: [], finished: false });
    take(message);
  });
  source.addEventListener("more", take);
  return () => source.close();
}

const of = (rows, name) => rows.map((row) => [row.step, row[name] ?? NaN]);

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

// --- the list ----------------------------------------------------------------------------------------------------
async function list(root, query, ends) {
  const [table, curves, verdict, begun] = [element("div", { class: "scroll all-runs", tabindex: "0", role: "region", "aria-label": "All runs" }), element("div", { class: "line-charts" }), element("div"), element("ul", { class: "begun" })];
  const [accuracy, loss] = [chart("Validation accuracy", { y: short }), chart("Validation loss")];
  curves.append(accuracy.figure, loss.figure);
  const followed = new Map(); // name → { curve, end, open }
  let going = new Set(); // the names of those that are being trained
  let chosen = (query.get("compare") ?? "").split(",").filter(Boolean);
  root.append(element("h1", {}, "Runs"), starter(() => refresh()), begun, table, verdict, element("section", { class: "compared" }, element("h2", {}, "Curves of the ticked runs"), curves));

  function draw() {
    const series = (name) => chosen.map((run, at) => ({ name: run, tone: at % 6, points: of(followed.get(run)?.curve?.epochs ?? [], name), dots: true }));
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
      const lines = element("pre", { tabindex: "0" }, said.lines.slice(1).join("\n"));
      verdict.replaceChildren(element("p", { class: "notice" }, said.verdict), element("details", {}, element("summary", {}, "class by class"), lines));
    };
    verdict.replaceChildren(chosen.length === 2 ? element("button", { onclick: () => attempt(compare) }, "Is one of the two better?") : "");
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

  async function refresh() {
    const { runs, folders, trainings } = await api("/api/runs");
    going = new Set(runs.filter((run) => run.state === "training").map((run) => run.name));
    begun.replaceChildren(...trainings.map((each) => element("li", {}, each.running ? element("button", { onclick: () => attempt(async () => { await api("/api/stop", { name: each.name }); await refresh(); }) }, `Stop ${each.name}`) : element("span", {}, each.said))));
    if (!runs.length) return table.replaceChildren(element("p", {}, `No runs yet in ${folders.join(", ")}: `, element("code", {}, "hubel train photos/"), " makes one, or start one above."));
    if (!query.has("compare") && !chosen.length) chosen = runs.slice(0, runs[0].state === "training" ? 1 : 2).map((run) => run.name);
    const focused = document.activeElement?.dataset?.run;
    const head = ["", "run", "state", "network", "accuracy", "95 % interval", "images", "best on validation", "epochs", "took"];
    table.replaceChildren(element("table", { class: "rows" },
      element("thead", {}, element("tr", {}, head.map((text, at) => element(text ? "th" : "td", { class: at > 3 ? "n" : "", scope: text ? "col" : null }, text)))),
      element("tbody", {}, runs.map((run) => element("tr", {},
        element("td", {}, element("input", { type: "checkbox", "data-run": run.name, checked: chosen.includes(run.name), "aria-label": `Show the curves of ${run.name}`, onchange: (event) => tick(run.name, event.target.checked) })),
        element("th", { scope: "row" }, element("a", { href: link({ run: run.name }) }, run.name)),
        element("td", { class: `state ${run.state}`, title: run.error }, SAID[run.state]),
        element("td", {}, run.network ?? "–"),
        element("td", { class: "n" }, percent(run.accuracy)),
        element("td", { class: "n" }, run.interval ? `${percent(run.interval[0])} – ${percent(run.interval[1])}` : "–"),
        element("td", { class: "n" }, run.n?.toLocaleString("en") ?? "–"),
        element("td", { class: "n" }, percent(run.validation)),
        element("td", { class: "n" }, run.epoch ? `${run.epoch} of ${run.epochs}` : "–"),
        element("td", { class: "n" }, duration(run.seconds)))))));
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
  const [source, minutes, name] = [["DATA", "text", "digits"], ["minutes", "number", "1"], ["name", "text", ""]].map(([, type, value]) => element("input", { type, value, min: 0.1, step: "any" }));
  return element("details", { class: "starter" }, element("summary", {}, "Start a training"),
    element("form", { class: "bar-of-controls", onsubmit: (event) => {
      event.preventDefault();
      attempt(async () => {
        await api("/api/train", { source: source.value, minutes: minutes.valueAsNumber, name: name.value });
        await started();
      });
    } }, field("images: a folder, a CSV, or a set’s name", source), field("minutes", minutes), field("name of the run", name), element("button", { class: "primary" }, "Start")));
}

// --- one run -----------------------------------------------------------------------------------------------------
async function single(root, run, ends) {
  const [loss, accuracy] = [chart("Loss"), chart("Accuracy", { y: short })];
  const [status, body] = [element("p", { class: "quiet", "aria-live": "polite" }), element("div")];
  root.append(element("p", { class: "kicker" }, element("a", { href: "#/runs" }, "All runs")), element("h1", {}, run), status, element("div", { class: "line-charts" }, loss.figure, accuracy.figure), body);
  let [wasFinished, told, complete] = [null, 0, false];
  const end = follow(run, (curve) => {
    const steps = of(curve.steps, "loss");
    loss.draw([{ name: "each batch", tone: 0, points: steps, faint: true }, { name: "training, smoothed", tone: 0, points: smoothed(steps) }, { name: "validation", tone: 1, points: of(curve.epochs, "val_loss"), dots: true }]);
    accuracy.draw([{ name: "training, augmented", tone: 0, points: of(curve.epochs, "train_accuracy"), dots: true }, { name: "validation", tone: 1, points: of(curve.epochs, "val_accuracy"), dots: true }]);
    const last = curve.epochs.at(-1);
    const now = curve.finished ? "Finished" : `At step ${(curve.steps.at(-1)?.step ?? 0).toLocaleString("en")}`;
    status.textContent = last ? `${now}; epoch ${last.epoch} of ${last.epochs}: ${percent(last.val_accuracy)} of the validation images right, ${last.worst_class} is the weakest class with ${percent(last.worst_recall)}.` : `${now}.`;
    if (wasFinished === false && (curve.finished || curve.findings.length !== told)) attempt(show);
    [wasFinished, told] = [curve.finished, curve.findings.length];
    if (curve.finished) end();
  });
  ends.push(end);

  async function show() {
    const said = await api(ask("run", { run }));
    if (complete) return;
    complete = Boolean(said.matrix);
    const parts = [];
    if (said.scores) {
      const { accuracy: right, interval, n, balanced_accuracy: balanced } = said.scores;
      parts.push(element("p", { class: "lead" }, element("b", {}, percent(right)), ` of ${n.toLocaleString("en")} ${said.part} images right (95 % interval ${percent(interval[0])} to ${percent(interval[1])}; mean over the classes ${percent(balanced)}). `, said.report && element("a", { href: ask("report", { run }), target: "_blank" }, "The whole report")));
    }
    const explainer = said.scores ? explained(run) : null;
    if (explainer) parts.push(section("Explain an image", explainer.root));
    if (said.matrix) parts.push(section("Confusion", confusion(run, said, explainer)));
    if (said.errors?.length) parts.push(section("Surest errors", cards(run, said.errors.slice(0, 24), said.classes, explainer)));
    if (said.findings) parts.push(section("Findings", findings(said)));
    if (said.plan) parts.push(section("Plan", element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Plan" }, element("table", { class: "rows plan" }, element("tbody", {}, said.plan.map(([what, value, why]) => element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, value), element("td", { class: "quiet" }, why))))))));
    body.replaceChildren(...parts);
  }
  await show();
}

const section = (title, ...content) => element("section", {}, element("h2", {}, title), ...content);

function confusion(run, said, explainer) {
  const { names, rows, hidden } = said.matrix;
  const [panel, most] = [element("div", { class: "opened", "aria-live": "polite" }), Math.max(...names.map((name) => name.length))];
  let pressed = null;
  const open = (cell, button) => attempt(async () => {
    const found = await api(ask("cell", { run, row: cell.row, column: cell.column }));
    pressed?.setAttribute("aria-pressed", "false");
    (pressed = button).setAttribute("aria-pressed", "true");
    const [label, answer] = [said.classes[cell.row], said.classes[cell.column]];
    const more = found.count > found.images.length ? `, ${found.images.length} of them shown` : "";
    panel.replaceChildren(element("h3", {}, label === answer ? `${found.count} of ${label}, rightly answered${more}; the least sure first` : `${found.count} of ${label} taken for ${answer}${more}; the surest first`), cards(run, found.images, said.classes, explainer));
  });
  const cell = (each, y, x) => {
    const name = `${said.classes[each.row]} answered as ${said.classes[each.column]}: ${each.count}`;
    const button = each.count ? element("button", { title: name, "aria-label": name, "aria-pressed": "false", onclick: () => open(each, button) }, each.count) : null;
    return element("td", { class: `s${each.level}${y === x ? " right" : ""}` }, button);
  };
  const table = element("table", { class: `matrix${names.length > 14 ? " many" : ""}`, style: { "--cell": names.length > 14 ? "1.7rem" : "2.4rem", "--head": `${Math.min(9, 0.6 * most + 1)}rem` } },
    element("thead", {}, element("tr", {}, element("td"), names.map((name) => element("th", { scope: "col", title: name }, element("span", {}, name))))),
    element("tbody", {}, rows.map((row, y) => element("tr", {}, element("th", { scope: "row", title: names[y] }, names[y]), row.map((each, x) => cell(each, y, x))))));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    let from = step && event.target.closest("td");
    while (from) {
      from = table.rows[from.parentElement.rowIndex + step[0]]?.cells[from.cellIndex + step[1]];
      const button = from?.querySelector("button");
      if (!button) continue;
      event.preventDefault();
      return button.focus();
    }
    return undefined;
  });
  return element("div", {}, element("p", { class: "quiet" }, `Down: the label. Across: the answer. A cell opens its images.${hidden ? ` ${hidden} classes that are mixed up least are left out.` : ""}`), element("div", { class: "scroll" }, table), panel);
}

function cards(run, images, classes, explainer) {
  const [kept, others] = [images.filter((image) => image.shown), images.filter((image) => !image.shown)];
  return element("div", {}, others.length > 0 && element("details", {}, element("summary", {}, `${others.length} of which the run keeps no picture`), element("ul", { class: "names" }, others.map((image) => element("li", {}, `${image.path}: ${image.answer} ${percent(image.confidence, 0)}`)))), element("ul", { class: "cards" }, kept.map((image) => {
    const source = ask("image", { run, index: image.index });
    const relabel = element("details", { class: "relabel" }, element("summary", {}, "Wrong label?"), select([["", "choose…"], ...classes.filter((name) => name !== image.label)], "", (label) => attempt(async () => {
      const { file } = await api(ask("label", { run }), { path: image.path, label });
      relabel.replaceChildren(element("summary", {}, `Now ${label}`), element("p", { class: "quiet" }, `Noted in ${file}; hubel train --relabel ${file} learns from it.`));
    }), { "aria-label": `Right label of ${image.path}` }));
    return element("li", {},
      element("img", { src: source, alt: image.path, loading: "lazy", class: "px" }),
      element("b", {}, image.answer), ` ${percent(image.confidence, 0)}`, element("br"), image.label !== image.answer && `label ${image.label}`, element("span", { class: "path" }, image.path),
      explainer && element("button", { class: "small-button", onclick: () => attempt(async () => explainer.take(await (await fetch(source)).blob(), image.path)) }, "Explain"), relabel);
  })));
}

function findings(said) {
  if (!said.findings.length) return element("p", {}, "Nothing was found.");
  const evidence = (found) => Object.entries(found.evidence ?? {}).map(([name, value]) => [element("dt", {}, name), element("dd", {}, Array.isArray(value) ? value.slice(0, 40).join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value))]);
  const one = (found) => element("div", { class: `finding ${found.severity}` },
    element("p", {}, element("span", { class: "tag" }, found.severity), found.step === null ? "" : ` at step ${found.step}`, ` · ${found.code} · ${found.known}`),
    element("p", {}, found.message), found.cause && element("p", {}, found.cause), found.remedy && element("p", {}, found.remedy),
    (Object.keys(found.evidence ?? {}).length > 0 || found.paths?.length > 0) && element("details", {}, element("summary", {}, "Evidence"), element("dl", { class: "terms" }, evidence(found), found.paths?.length ? [element("dt", {}, "images"), element("dd", {}, found.paths.slice(0, 20).join(", "))] : [])));
  return element("div", {}, said.findings.map(([first, ...others], at) => [
    one(first),
    others.length > 0 && element("details", { class: "others" }, element("summary", {}, `${(said.kinds[at] - 1).toLocaleString("en")} more of this kind${others.length < said.kinds[at] - 1 ? `, ${others.length} of them here, all in findings.json` : ""}`), others.map(one)),
  ]));
}

/** The panel that explains an image: the user's file, or one of the run's. */
function explained(run) {
  const [settings, answer] = [element("div", { class: "bar-of-controls" }), element("div", { class: "answer", "aria-live": "polite" })];
  const choice = { method: "gradcam", layer: "", label: "" };
  let [image, name, turn] = [null, "", 0];
  const file = element("input", { type: "file", accept: "image/*", id: "explain-file", onchange: () => file.files[0] && take(file.files[0], file.files[0].name) });
  const root = element("div", { class: "explainer" }, element("p", {}, field("an image from this computer; it goes no further than this machine", file)), settings, answer);
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });

  async function take(blob, called) {
    [image, name] = [blob, called];
    root.scrollIntoView({ block: "nearest" });
    await again();
  }
  async function choices() {
    if (settings.childElementCount) return;
    const { methods, layers, classes } = await api(ask("layers", { run }));
    const set = (key) => (value) => { choice[key] = value; again(); };
    settings.replaceChildren(field("method", select(methods, choice.method, set("method"), { name: "method" })), field("layer", select([["", "chosen for you"], ...layers], "", set("layer"), { name: "layer" })), field("class", select([["", "the likeliest"], ...classes], "", set("label"), { name: "class" })));
  }
  const again = () => image && attempt(async () => {
    const mine = ++turn;
    answer.replaceChildren(element("p", { class: "quiet" }, "Looking…"));
    try {
      await choices();
      const said = await api(ask("explain", { run, ...choice }), image);
      if (mine === turn) answer.replaceChildren(...shown(said));
    } catch (error) {
      if (mine === turn) answer.replaceChildren();
      throw error;
    }
  });
  function shown(said) {
    const trust = said.note ? "" : said.trusted ? "trusted" : "doubted";
    return [
      element("div", { class: "maps" },
        element("figure", {}, element("img", { src: said.image, alt: `${name} as the network sees it`, class: "px" }), element("figcaption", {}, `${name}, as the network sees it`)),
        element("figure", {}, element("img", { src: said.overlay, alt: `Map of what speaks for ${said.target}`, class: "px map" }), element("figcaption", {}, `What speaks for ${said.target}: ${said.method}${said.layer ? ` at ${said.layer}` : ""}`)),
        element("div", { class: "odds" }, element("h3", {}, "Answer"), element("table", {}, element("tbody", {}, Object.entries(said.probabilities).map(([label, p]) => element("tr", {}, element("th", { scope: "row" }, label), element("td", {}, element("span", { class: "bar", style: { "--v": p } }, element("span", {}, percent(p))))))))),
      ),
      element("div", { class: `trust ${trust}` }, element("h3", {}, { trusted: "What the map points at matters", doubted: "Do not rely on this map" }[trust] ?? "No map"), element("p", {}, said.note || said.trust), said.insertion !== null && element("p", { class: "quiet" }, `Area under the probability: ${said.insertion.toFixed(3)} as the map’s pixels are put in, ${said.deletion.toFixed(3)} as they are taken away. Layer: ${said.reason}.`)),
      said.alike.length > 0 && element("div", {}, element("h3", {}, "Most alike in training"), element("ul", { class: "cards small" }, said.alike.map((each) => element("li", {}, element("img", { src: each.picture, alt: each.path, class: "px" }), element("b", {}, each.label), ` ${each.cosine.toFixed(2)}`)))),
    ].filter(Boolean);
  }
  return { root, take };
}
