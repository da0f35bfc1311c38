// One run: its curves as they grow, what it got right and wrong, and what was found.
import { chart, smoothed } from "./chart.js";
import { ARROWS, api, attempt, h, select } from "./dom.js";
import { explainer } from "./explain.js";
import { ask, follow, of, percent } from "./follow.js";

const section = (title, ...content) => h.section(h.h2(title), ...content);
const whole = (value) => value.toLocaleString("en");

export async function single(root, run, ends) {
  const [loss, accuracy] = [chart("Loss"), chart("Accuracy", { y: (value) => percent(value, 0) })];
  const [status, body] = [h.p({ class: "quiet", "aria-live": "polite" }), h.div()];
  root.append(h.p({ class: "kicker" }, h.a({ href: "#/runs" }, "All runs")), h.h1(run), status,
    h.div({ class: "line-charts" }, loss.figure, accuracy.figure), body);
  let [wasFinished, told, complete] = [null, 0, false];
  const end = follow(run, (curve) => {
    draw(curve, loss, accuracy);
    status.textContent = where(curve);
    if (wasFinished === false && (curve.finished || curve.findings.length !== told)) attempt(show);
    [wasFinished, told] = [curve.finished, curve.findings.length];
    if (curve.finished) end();
  });
  ends.push(end);

  async function show() {
    const said = await api(ask("run", { run }));
    if (complete) return;
    complete = Boolean(said.matrix);
    const panel = complete ? explainer(run) : null;
    const parts = complete ? [
      headline(run, said),
      section("Explain an image", panel.root),
      section("Confusion", confusion(run, said, panel)),
      said.errors.length > 0 && section("Surest errors", cards(run, said.errors.slice(0, 24), said.classes, panel)),
    ] : [];
    if (said.findings) parts.push(section("Findings", findings(said)));
    if (said.plan) parts.push(section("Plan", plan(said.plan)));
    body.replaceChildren(...parts.filter(Boolean));
  }
  await show();
}

function draw(curve, loss, accuracy) {
  const steps = of(curve.steps, "loss");
  const epochs = (name, tone, column) => ({ name, tone, points: of(curve.epochs, column), dots: true });
  loss.draw([
    { name: "each batch", tone: 0, points: steps, faint: true },
    { name: "training, smoothed", tone: 0, points: smoothed(steps) },
    epochs("validation", 1, "val_loss"),
  ]);
  accuracy.draw([epochs("training, augmented", 0, "train_accuracy"), epochs("validation", 1, "val_accuracy")]);
}

function where(curve) {
  const last = curve.epochs.at(-1);
  const now = curve.finished ? "Finished" : `At step ${whole(curve.steps.at(-1)?.step ?? 0)}`;
  if (!last) return `${now}.`;
  const weakest = `${last.worst_class} is the weakest class with ${percent(last.worst_recall)}`;
  return `${now}; epoch ${last.epoch} of ${last.epochs}: ${percent(last.val_accuracy)} of the validation images right, ${weakest}.`;
}

function headline(run, { scores, part, report }) {
  const [low, high] = scores.interval.map((end) => percent(end));
  const around = `95 % interval ${low} to ${high}; mean over the classes ${percent(scores.balanced_accuracy)}`;
  return h.p({ class: "lead" }, h.b(percent(scores.accuracy)), ` of ${whole(scores.n)} ${part} images right (${around}). `,
    report && h.a({ href: ask("report", { run }), target: "_blank" }, "The whole report"));
}

function plan(rows) {
  const row = ([what, value, why]) => h.tr(h.th({ scope: "row" }, what), h.td(value), h.td({ class: "quiet" }, why));
  return h.div({ class: "scroll", tabindex: "0", role: "region", "aria-label": "Plan" },
    h.table({ class: "rows plan" }, h.tbody(rows.map(row))));
}

function confusion(run, said, panel) {
  const { names, rows, hidden } = said.matrix;
  const [opened, longest] = [h.div({ class: "opened", "aria-live": "polite" }), Math.max(...names.map((name) => name.length))];
  const many = names.length > 14;
  let pressed = null;
  const open = (cell, button) => attempt(async () => {
    const { count, images } = await api(ask("cell", { run, row: cell.row, column: cell.column }));
    pressed?.setAttribute("aria-pressed", "false");
    (pressed = button).setAttribute("aria-pressed", "true");
    const [label, answer] = [said.classes[cell.row], said.classes[cell.column]];
    const more = count > images.length ? `, ${images.length} of them shown` : "";
    const right = `${count} of ${label}, rightly answered${more}; the least sure first`;
    const title = label === answer ? right : `${count} of ${label} taken for ${answer}${more}; the surest first`;
    opened.replaceChildren(h.h3(title), cards(run, images, said.classes, panel));
  });
  const cell = (each, y, x) => {
    const name = `${said.classes[each.row]} answered as ${said.classes[each.column]}: ${each.count}`;
    const button = h.button({ title: name, "aria-label": name, "aria-pressed": "false", onclick: () => open(each, button) }, each.count);
    return h.td({ class: `s${each.level}${y === x ? " right" : ""}` }, each.count > 0 && button);
  };
  const head = names.map((name) => h.th({ scope: "col", title: name }, h.span(name)));
  const row = (cells, y) => h.tr(h.th({ scope: "row", title: names[y] }, names[y]), cells.map((each, x) => cell(each, y, x)));
  const style = { "--cell": many ? "1.7rem" : "2.4rem", "--head": `${Math.min(9, 0.6 * longest + 1)}rem` };
  const table = h.table({ class: many ? "matrix many" : "matrix", style }, h.thead(h.tr(h.td(), head)), h.tbody(rows.map(row)));
  table.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    let from = step && event.target.closest("td");
    while (from) { // the next cell that has images
      from = table.rows[from.parentElement.rowIndex + step[0]]?.cells[from.cellIndex + step[1]];
      const button = from?.querySelector("button");
      if (!button) continue;
      event.preventDefault();
      return button.focus();
    }
    return undefined;
  });
  const left = hidden ? ` ${hidden} classes that are mixed up least are left out.` : "";
  return h.div(h.p({ class: "quiet" }, `Down: the label. Across: the answer. A cell opens its images.${left}`),
    h.div({ class: "scroll" }, table), opened);
}

function cards(run, images, classes, panel) {
  return h.ul({ class: "cards" }, images.map((image) => card(run, image, classes, panel)));
}

function card(run, image, classes, panel) {
  const source = ask("image", { run, index: image.index });
  const explain = () => attempt(async () => panel.take(await (await fetch(source)).blob(), image.path));
  const correct = (label) => attempt(async () => {
    const { file } = await api(ask("label", { run }), { path: image.path, label });
    const noted = `Noted in ${file}; hubel train --relabel ${file} learns from it.`;
    relabel.replaceChildren(h.summary(`Now ${label}`), h.p({ class: "quiet" }, noted));
  });
  const others = [["", "choose…"], ...classes.filter((name) => name !== image.label)];
  const relabel = h.details({ class: "relabel" }, h.summary("Wrong label?"),
    select(others, "", correct, { "aria-label": `Right label of ${image.path}` }));
  const picture = image.shown ? h.img({ src: source, alt: image.path, loading: "lazy", class: "px" })
    : h.div({ class: "no-picture" }, "The run keeps no picture of this one; the file is where the data lie.");
  return h.li(picture,
    h.b(image.answer), ` ${percent(image.confidence, 0)}`, h.br(), image.label !== image.answer && `label ${image.label}`,
    h.span({ class: "path" }, image.path), image.shown && h.button({ class: "small-button", onclick: explain }, "Explain"), relabel);
}

function findings(said) {
  if (!said.findings.length) return h.p("Nothing was found.");
  const written = (value) => (Array.isArray(value) ? value.slice(0, 40).join(", ") : typeof value === "object" ? JSON.stringify(value) : value);
  const one = (found) => {
    const evidence = Object.entries({ ...found.evidence, ...(found.paths?.length && { images: found.paths.slice(0, 20) }) });
    const step = found.step === null ? "" : ` at step ${found.step}`;
    return h.div({ class: `finding ${found.severity}` },
      h.p(h.span({ class: "tag" }, found.severity), `${step} · ${found.code} · ${found.known}`),
      [found.message, found.cause, found.remedy].filter(Boolean).map((text) => h.p(text)),
      evidence.length > 0 && h.details(h.summary("Evidence"),
        h.dl({ class: "terms" }, evidence.map(([name, value]) => [h.dt(name), h.dd(written(value))]))));
  };
  return h.div(said.findings.map(([first, ...others], at) => {
    const count = said.kinds[at] - 1;
    const part = others.length < count ? `, ${others.length} of them here, all in findings.json` : "";
    return [one(first), count > 0 && h.details({ class: "others" }, h.summary(`${whole(count)} more of this kind${part}`), others.map(one))];
  }));
}
