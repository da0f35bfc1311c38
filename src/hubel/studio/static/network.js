// The network view: a run's layers, what each makes of an image, and the arithmetic of any number in it.
import { api, attempt, element as el, keep, number, paint, palette, select } from "./dom.js";

const WORDS = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const TILES = 128; // maps that are shown at first
const times = (sizes) => sizes.join(" × ");
const short = (value) => (value === null ? "not finite" : number(value, 4).replace(/^-/, "−"));

// A map in the colours of its own range; a single number in those of its layer.
function plane(canvas, { bytes, height, width, ranges, range }, channel) {
  const [low, high] = ranges[channel], single = height * width === 1;
  const known = Float32Array.from({ length: 256 }, (_, byte) => low + (byte / 255) * (high - low));
  const [values, start] = [new Float32Array(height * width), channel * height * width];
  for (let at = 0; at < values.length; at++) values[at] = known[bytes[start + at]];
  paint(canvas, values, height, width, single ? { low: -Math.max(...range.map(Math.abs)), high: Math.max(...range.map(Math.abs)) } : { low, high });
  return canvas;
}

// In a small cell: two digits, no zero before the point.
const tiny = (value) => {
  const size = Math.abs(value), text = size < 0.1 ? value.toFixed(size < 0.01 ? 3 : 2) : number(value, 2);
  return text.replace("-", "−").replace(/^−?0\.0+$/, value ? "~0" : "0").replace(/^(−?)0\./, "$1.");
};
function swatch(value, most) {
  const [r, g, b] = palette(-most || -1, most || 1)(value);
  const linear = [r, g, b].map((part) => (part / 255 <= 0.04 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]; // as WCAG measures contrast
  return { background: `rgb(${r} ${g} ${b})`, color: light > 0.179 ? "#000" : "#fff" };
}

export async function mount(root, query) {
  const view = new View(root, new URLSearchParams(query));
  await view.start();
}

class View {
  constructor(root, query) {
    Object.assign(this, { root, query, run: query.get("run") ?? "", trail: [], asked: 0, opening: 0, changing: 0 });
    this.layers = el("nav", { class: "net-layers", "aria-label": "Layers" });
    this.images = el("div", { class: "net-images", role: "group", "aria-label": "Images" });
    this.answer = el("ol", { class: "net-answer", "aria-label": "What the network answers" });
    this.input = el("img", { class: "net-picture", alt: "The image, as the network is shown it" });
    this.box = el("div", { class: "net-box", hidden: true });
    this.sees = el("p", { class: "net-quiet" }, "Point at a map: the box is what that number sees of the image.");
    this.layer = el("section", { class: "net-layer", "aria-label": "Layer" });
    this.sum = el("aside", { class: "net-sum", "aria-label": "Arithmetic", "aria-live": "polite" });
  }

  url(path, extra) {
    return `/api/network${path}?${new URLSearchParams({ run: this.run, ...extra })}`;
  }

  get(path, extra) {
    return api(this.url(path, extra));
  }

  async start() {
    this.title = el("h1", {}, "Network");
    this.facts = el("p", { class: "net-quiet" });
    this.runs = el("div", { class: "net-runs" });
    this.root.replaceChildren(
      el("div", { class: "net" },
        el("header", { class: "net-head" }, el("div", { class: "net-bar" }, this.title, this.runs), this.facts),
        el("section", { class: "net-input", "aria-label": "Image" },
          el("div", { class: "net-frame" }, this.input, this.box), el("div", {}, this.answer, this.sees), this.images),
        this.layers, this.layer, this.sum));
    const runs = await api("/api/network/runs");
    if (!runs.length) throw new Error("None of the folders that the studio was given holds a trained model: hubel train makes one.");
    await this.firstOf(this.run ? [this.run] : runs).finally(() =>
      this.runs.append(select(runs, this.run, (run) => (location.hash = `#/network?${new URLSearchParams({ run, layer: this.query.get("layer") ?? "" })}`), { "aria-label": "Run" })));
    const { network, parameters, macs, input, field } = this.network;
    this.title.textContent = network;
    const sees = field ? `, its last map sees ${times(field)} pixels` : "";
    this.facts.textContent = `${WORDS.format(parameters)} parameters, ${WORDS.format(macs)} multiply-accumulates for ${times(input)}${sees}.`;
    this.listLayers();
    const asked = this.query.get("image"), known = Object.keys(this.network.images);
    await this.choose(known.includes(asked) ? asked : known[0]);
    this.listImages(); // after the first number, which would have to wait for all these pictures
    attempt(async () => this.showTimes(await this.get("/times")));
  }

  // Open the first run that can be; where none can, say why the first one can't.
  async firstOf(runs) {
    const refused = [];
    for (this.run of runs) {
      try {
        this.network = await this.get("", { image: this.query.get("image") ?? "" });
        if (refused.length) this.sees.before(el("p", { class: "net-quiet" }, `Opened instead of what can’t be: ${refused[0].message}`));
        return;
      } catch (error) {
        refused.push(error);
      }
    }
    [this.run] = runs;
    throw refused[0];
  }

  // ---- the image

  listImages() {
    const chosen = (name) => el("button", { type: "button", "data-image": name, "aria-pressed": String(name === this.image), onclick: () => attempt(() => this.choose(name)) },
      el("img", { src: this.url("/picture", { image: name }), alt: this.network.images[name].label, loading: "lazy", title: this.network.images[name].name }));
    const file = el("input", { type: "file", accept: "image/*", class: "sr", id: "net-file", onchange: () => attempt(() => this.upload(file.files[0])) });
    this.images.replaceChildren(el("label", { for: "net-file", class: "net-upload" }, file, "Your image"), ...Object.keys(this.network.images).map(chosen));
  }

  async upload(file) {
    const said = await api(this.url("/picture"), file);
    this.network.images = { [said.image]: { label: "yours", name: file.name }, ...this.network.images };
    this.listImages();
    await this.choose(said.image);
  }

  async choose(image) {
    this.image = image;
    this.input.src = this.url("/picture", { image });
    for (const button of this.images.querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.image === image);
    this.passing = this.get("/pass", { image });
    this.pass = await this.passing;
    const odds = this.pass.odds.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, 3), last = this.pass.steps.length - 1;
    const why = ([p, i]) => el("li", {}, el("button", { type: "button", title: "How this number came about", onclick: () => attempt(() => this.fresh(last, [i])) }, el("b", {}, `${(100 * p).toFixed(1)} %`), ` ${this.network.classes[i]}`));
    this.answer.replaceChildren(...odds.map(why));
    this.trail = [];
    const known = this.pass.steps.findLastIndex(([name]) => name === this.query.get("layer"));
    const place = this.at?.place ?? this.query.get("place")?.split(",").map(Number);
    await this.open(this.at?.step ?? (known < 0 ? this.stepOf(0) : known), place);
  }

  // ---- the layers

  stepOf(row) {
    return this.pass.steps.findLastIndex((step) => step[2] === row);
  }

  listLayers() {
    const { layers } = this.network;
    const side = (layer) => (layer.shape.length === 3 && layer.shape[1] > 1 ? times(layer.shape.slice(1)) : "");
    const last = layers.findLastIndex(side);
    let stage = null, list;
    this.rows = layers.map((layer, row) => {
      const name = side(layer) || (row > last ? "head" : stage);
      if (name !== stage) this.layers.append(el("h2", {}, name === "head" ? "head" : `maps of ${name}`), (list = el("ol")));
      stage = name;
      const facts = [times(layer.shape), layer.parameters && `${WORDS.format(layer.parameters)} param.`, layer.macs && `${WORDS.format(layer.macs)} MACs`].filter(Boolean);
      const button = el("button", { type: "button", onclick: () => attempt(() => this.passing.then(() => this.fresh(this.stepOf(row)))), onkeydown: (event) => this.arrow(event, row) },
        el("b", {}, layer.name), " ", el("span", { class: "net-kind" }, layer.kind), " ", el("span", { class: "net-facts" }, facts.join(" · ")), el("i", { class: "net-time" }));
      list.append(el("li", {}, button));
      return button;
    });
  }

  arrow(event, row) {
    const next = this.rows[row + { ArrowDown: 1, ArrowUp: -1 }[event.key]];
    if (next) event.preventDefault(), next.focus();
  }

  showTimes(milliseconds) {
    const total = milliseconds.reduce((sum, value) => sum + (value ?? 0), 0) || 1;
    milliseconds.forEach((value, row) => {
      if (value === null) return;
      this.rows[row].querySelector(".net-time").style.width = `${(100 * value) / Math.max(...milliseconds)}%`;
      this.rows[row].querySelector(".net-facts").append(` · ${((100 * value) / total).toFixed(1)} % of time`);
    });
  }

  fresh(step, place) {
    this.trail = [];
    return this.open(step, place);
  }

  // ---- one layer and its maps

  async open(step, place) {
    const [name, kind, row, shape] = this.pass.steps[step];
    const known = { image: this.image, step }, mine = ++this.opening;
    const [about, answer] = await Promise.all([this.get("/layer", known), fetch(this.url("/maps", known))]);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    if (mine !== this.opening) return; // another layer was opened meanwhile
    const [height, width] = shape.length > 1 ? shape.slice(-2) : [1, 1];
    const maps = { bytes, height, width, count: bytes.length / (height * width), ranges: about.ranges, range: [about.minimum, about.maximum], boxes: about.boxes };
    Object.assign(this, { maps, about, at: { step, place } });
    for (const [i, button] of this.rows.entries()) button.setAttribute("aria-current", i === row);
    this.layers.scrollTop = (this.rows[row]?.offsetTop ?? 0) - this.layers.clientHeight / 2;
    const layer = this.network.layers[row];
    const dead = about.dead.filter(Boolean).length;
    const share = dead ? `${dead} of ${maps.count} channels are nowhere above zero (${Math.round((100 * dead) / maps.count)} %)` : "every channel is above zero somewhere";
    const last = layer && this.stepOf(row) === step;
    this.big = el("canvas", { class: "net-map" });
    this.cursor = el("div", { class: "net-cursor" });
    this.reading = el("p", { class: "net-quiet", "aria-live": "polite" });
    this.plane = el("div", { class: "net-frame net-plane", tabindex: 0, role: "application", "aria-roledescription": "map",
      onclick: (event) => this.pick(event), onpointermove: (event) => this.hover(event), onpointerleave: () => this.mark(this.at.place), onkeydown: (event) => this.steer(event) }, this.big, this.cursor);
    this.filter = el("div", { class: "net-filter" });
    this.gallery = el("div", { class: "net-gallery", role: "group", "aria-label": "Channels" });
    this.layer.replaceChildren(
      el("h2", {}, name, el("span", { class: "net-kind" }, last ? layer.kind : kind)),
      el("p", {}, `${last && layer.detail ? `${layer.detail}: ` : ""}${last ? `${times(layer.input_shape)} → ` : ""}${times(shape)}, from ${short(about.minimum)} to ${short(about.maximum)}${height * width > 1 ? `; ${share}` : ""}.`),
      ...(last && layer.conv ? [this.whatIf(row)] : []),
      el("div", { class: "net-two" }, el("div", {}, this.plane, this.reading), this.filter), this.gallery);
    const chosen = this.select(place ?? this.first(shape)); // it asks for the number while the maps are drawn
    this.tiles(TILES);
    this.pressed();
    await chosen;
  }

  // Where to start: the middle of the first map that is not dead; of the answer, its class.
  first(shape) {
    const alive = Math.max(this.about.dead.indexOf(false), 0);
    if (shape.length === 1) return [this.about.ranges.reduce((best, range, i, all) => (range[1] > all[best][1] ? i : best), 0)];
    const middle = shape.slice(-2).map((n) => Math.floor(n / 2));
    return shape.length === 2 ? middle : [alive, ...middle];
  }

  channel(place) {
    return place.length === 2 ? 0 : place[0];
  }

  tiles(most) {
    const { height, width, count } = this.maps;
    const classes = this.network.classes.length === count && height * width === 1 ? this.network.classes : null;
    const size = height * width === 1 ? "net-cell" : "";
    const buttons = Array.from({ length: Math.min(count, most) }, (_, channel) => {
      const [low, high] = this.about.ranges[channel];
      const name = classes?.[channel] ?? `channel ${channel}`;
      const said = height * width > 1 ? `from ${short(low)} to ${short(high)}${this.about.dead[channel] ? ", dead" : ""}` : short(low);
      return el("button", { type: "button", class: `${size} ${classes ? "net-named" : ""} ${!size && this.about.dead[channel] ? "net-dead" : ""}`, "aria-label": `${name}: ${said}`, title: `${name}: ${said}`,
        onclick: () => attempt(() => this.select(this.withChannel(channel))) },
        plane(el("canvas"), this.maps, channel), classes ? el("span", {}, `${name} `, el("b", {}, said)) : null);
    });
    const more = count > most ? [el("button", { type: "button", class: "net-more", onclick: () => { this.tiles(count); this.pressed(); } }, `all ${count}`)] : [];
    this.gallery.replaceChildren(...buttons, ...more);
  }

  withChannel(channel) {
    const place = this.at.place;
    return place.length === 2 ? place : [channel, ...place.slice(1)];
  }

  pressed() {
    [...this.gallery.children].forEach((tile, i) => tile.setAttribute("aria-pressed", i === this.channel(this.at.place)));
  }

  async select(place) {
    this.at.place = place;
    const { height, width } = this.maps, channel = this.channel(place);
    plane(this.big, this.maps, channel);
    this.plane.hidden = height * width === 1;
    this.plane.setAttribute("aria-label", `Channel ${channel}, ${height} rows of ${width}: arrow keys choose a number`);
    this.plane.style.aspectRatio = `${width} / ${height}`;
    this.pressed();
    this.mark(place);
    await Promise.all([this.explain(), this.showFilter(channel)]);
    const [name] = this.pass.steps[this.at.step];
    keep("network", { run: this.run, image: this.image, layer: name, place: place.join(",") });
  }

  async showFilter(channel) {
    const layer = this.network.layers[this.pass.steps[this.at.step][2]];
    this.filter.replaceChildren();
    if (!layer?.conv || this.pass.steps[this.at.step][1] !== "conv2d") return;
    const { of, slices } = await this.get("/filter", { image: this.image, step: this.at.step, channel });
    const flat = slices.flat(2), most = Math.max(...flat.map(Math.abs)) || 1;
    const [height, width] = [slices[0].length, slices[0][0].length];
    const drawn = (slice, i) => {
      const canvas = el("canvas", { role: "img", "aria-label": `slice for input channel ${i}` });
      paint(canvas, slice.flat(), height, width, { low: -most, high: most });
      return canvas;
    };
    this.filter.replaceChildren(
      el("h3", {}, `Filter ${channel}`), el("p", { class: "net-quiet" }, `${of} × ${times([height, width])}, up to ±${short(most)}${of > slices.length ? `; ${slices.length} are drawn` : ""}`),
      el("div", { class: "net-slices" }, slices.map(drawn)));
  }

  // ---- pointing at numbers

  under(event) {
    const frame = this.big.getBoundingClientRect(), { height, width } = this.maps;
    const at = (value, n) => Math.min(n - 1, Math.max(0, Math.floor(value * n)));
    const spot = [at((event.clientY - frame.top) / frame.height, height), at((event.clientX - frame.left) / frame.width, width)];
    return this.at.place.length === 2 ? spot : [this.at.place[0], ...spot];
  }

  hover(event) {
    this.mark(this.under(event));
  }

  pick(event) {
    this.trail = [];
    attempt(() => this.select(this.under(event)));
  }

  steer(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const ends = [this.maps.height, this.maps.width], place = [...this.at.place];
    move.forEach((by, axis) => (place[place.length - 2 + axis] = Math.min(ends[axis] - 1, Math.max(0, place.at(axis - 2) + by))));
    this.trail = [];
    attempt(() => this.select(place));
  }

  // Show where a number lies in its map, and what it sees of the image.
  mark(place) {
    const { bytes, height, width, boxes } = this.maps, [row, column] = height * width > 1 ? place.slice(-2) : [0, 0];
    Object.assign(this.cursor.style, { top: `${(100 * row) / height}%`, left: `${(100 * column) / width}%`, height: `${100 / height}%`, width: `${100 / width}%` });
    const byte = bytes[this.channel(place) * height * width + row * width + column];
    const [low, high] = this.about.ranges[this.channel(place)];
    const near = number(low + (byte / 255) * (high - low), 2);
    this.reading.textContent = `Channel ${this.channel(place)}, from ${short(low)} to ${short(high)}; row ${row}, column ${column}: about ${near}.`;
    this.frame(boxes && [boxes[0][Math.min(row, boxes[0].length - 1)], boxes[1][Math.min(column, boxes[1].length - 1)]]);
  }

  frame(pair) {
    const [, height, width] = this.network.input;
    const [[top, bottom], [left, right]] = pair ?? [[0, height - 1], [0, width - 1]];
    const inside = [Math.max(top, 0), Math.min(bottom, height - 1), Math.max(left, 0), Math.min(right, width - 1)];
    this.box.hidden = false;
    Object.assign(this.box.style, {
      top: `${(100 * inside[0]) / height}%`, height: `${(100 * (inside[1] - inside[0] + 1)) / height}%`,
      left: `${(100 * inside[2]) / width}%`, width: `${(100 * (inside[3] - inside[2] + 1)) / width}%` });
    const over = pair && (top < 0 || left < 0 || bottom >= height || right >= width) ? "; it reaches over the edge" : "";
    this.sees.textContent = pair ? `It sees ${times([bottom - top + 1, right - left + 1])} pixels: rows ${top} to ${bottom}, columns ${left} to ${right}${over}.` : "It sees the whole image.";
  }

  // ---- the arithmetic

  async explain() {
    const asked = ++this.asked, { step, place } = this.at;
    const found = await this.get("/number", { image: this.image, step, place: place.join(",") });
    if (asked === this.asked) this.showSum(found);
  }

  showSum(found) {
    const answers = found.shape.length === 2 && found.shape[1] === this.network.classes.length;
    const exact = found.total === null ? "" : `worked out ${found.total.toPrecision(7)}, in the tensor ${found.value.toPrecision(7)}`.replaceAll("-", "−");
    const inside = this.sum.contains(document.activeElement); // who walks by keyboard goes on from there
    this.sum.replaceChildren(
      el("h2", {}, "How this number came about"),
      this.way(),
      el("p", { class: "net-name" }, el("b", {}, found.name), ` ${found.kind} [${found.place.slice(1)}]`, answers && ` ${this.network.classes[found.place[1]]}`),
      el("p", { class: "net-value" }, el("output", { "data-value": found.value, "data-total": found.total }, short(found.value))),
      el("p", { class: "net-formula" }, this.formula(found)),
      el("div", { class: "net-parts" }, found.parts.map((part) => this.part(part, found))),
      el("p", { class: "net-quiet" }, exact, found.parts.some((part) => part.columns > 4) && "; point at a cell for its number"));
    if (inside) this.sum.querySelector(".net-parts button")?.focus({ preventScroll: true });
  }

  // The numbers that a walk went through, to go back to.
  way() {
    const stop = ({ step, place }, i) => el("li", {}, el("button", { type: "button", onclick: () => this.back(i) }, `${this.pass.steps[step][0]} [${place}]`));
    return !this.trail.length ? "" : el("ol", { class: "net-trail", "aria-label": "The way here" }, this.trail.map(stop));
  }

  formula(found) {
    const numbers = Object.fromEntries(found.parts.map((part) => [part.label, short(part.total)]));
    return "γ" in numbers ? `(${numbers.x} − ${numbers.mean}) ÷ √(${numbers.var} + ${numbers.eps}) × ${numbers.γ} + ${numbers.β}` : found.formula;
  }

  part(part, found) {
    const total = el("span", { class: "net-total" }, short(part.total));
    if (part.columns > 1) return el("div", { class: "net-window" }, el("h3", {}, part.label, total), this.window(part, found));
    const rows = part.terms.map((term) => el("li", {}, this.source(term, short(term.number)),
      term.weight !== null ? ` × ${short(term.weight)} = ${short(term.value)}` : term.value !== term.number && ` → ${short(term.value)}`,
      el("small", {}, term.label || this.from(term))));
    return el("div", { class: "net-list" }, el("h3", {}, part.label, total), rows.length ? el("ol", {}, rows) : null);
  }

  from(term) {
    if (term.step === null) return "";
    const place = `[${term.place.slice(1)}]`;
    return term.step < 0 ? `image ${place}` : `${this.pass.steps[term.step][0]} ${place}`;
  }

  window(part, found) {
    const numbers = part.terms.map((term) => term.number), most = Math.max(...numbers.map(Math.abs));
    const grid = (cells, name) => el("div", { class: part.columns > 4 ? "net-grid net-fine" : "net-grid", role: "group", "aria-label": name, style: { "grid-template-columns": `repeat(${part.columns}, 1fr)` } }, cells);
    const cell = (value, scale) => el("span", { style: swatch(value, scale), title: short(value) }, tiny(value));
    const patch = part.terms.map((term) => {
      const won = found.formula.startsWith("the largest") && term.step !== null && term.number === found.value;
      return this.source(term, term.label === "padding" ? "·" : tiny(term.number), swatch(term.number, most), won);
    });
    if (part.terms[0].weight === null) return grid(patch, "the window");
    const scales = ["weight", "value"].map((name) => Math.max(...part.terms.map((term) => Math.abs(term[name]))));
    return el("div", { class: "net-product" }, grid(patch, "the patch"), "×", grid(part.terms.map((term) => cell(term.weight, scales[0])), "the weights"), "=", grid(part.terms.map((term) => cell(term.value, scales[1])), "the products"));
  }

  // A number that leads to where it came from.
  source(term, text, style = {}, won = false) {
    if (term.step === null) return el("span", { style, class: "net-constant", title: term.label }, text);
    const name = `${text}, from ${this.from(term)}${won ? ", the largest" : ""}`;
    return el("button", { type: "button", class: won ? "net-won" : "", style, title: `${short(term.number)}, from ${this.from(term)}`, "aria-label": name, onclick: () => attempt(() => this.walk(term)) }, text);
  }

  async walk(term) {
    const place = term.place.slice(1);
    this.trail.push({ ...this.at });
    if (term.step >= 0) return this.open(term.step, place);
    this.frame([[place[1], place[1]], [place[2], place[2]]]);
    this.sum.replaceChildren(el("h2", {}, "The image"),
      this.way(),
      el("p", { class: "net-value" }, el("output", { "data-value": term.number }, short(term.number))),
      el("p", {}, `Channel ${place[0]} of the pixel in row ${place[1]}, column ${place[2]}, after normalisation: here the walk ends.`));
  }

  back(index) {
    const stop = this.trail[index];
    this.trail = this.trail.slice(0, index);
    attempt(() => this.open(stop.step, stop.place));
  }

  // ---- what if

  whatIf(row) {
    const layer = this.network.layers[row], result = el("div", { "aria-live": "polite" });
    const inputs = ["kernel", "stride", "dilation"].map((name) => el("label", {}, name, el("input", { type: "number", name, min: 1, max: 15, value: layer.conv[name], oninput: () => attempt(change) })));
    const change = async () => {
      const mine = ++this.changing;
      const asked = Object.fromEntries(inputs.map((label) => [label.lastChild.name, label.lastChild.value || 0]));
      try {
        const other = await this.get("/what-if", { layer: layer.name, ...asked });
        if (mine === this.changing) result.replaceChildren(...this.compared(row, other));
      } catch (error) {
        if (mine === this.changing) result.replaceChildren(el("p", { class: "net-said" }, error.message));
      }
    };
    return el("details", { class: "net-what-if" }, el("summary", {}, "What if its kernel, stride or dilation were others?"), el("form", { onsubmit: (event) => event.preventDefault() }, inputs), result);
  }

  compared(row, other) {
    const { layers, macs } = this.network;
    const both = (old, next) => (String(old) === String(next) ? el("td", {}, next) : el("td", {}, el("s", {}, old), " ", el("b", {}, next)));
    const sees = (layer) => (layer.field ? times(layer.field) : "all");
    const rows = other.layers.slice(row).map((next, i) => [layers[row + i], next]).filter(([old, next]) => old && (times(old.shape) !== times(next.shape) || old.macs !== next.macs || sees(old) !== sees(next)));
    const share = other.macs / macs;
    return [
      el("p", {}, `The whole network: ${WORDS.format(other.macs)} multiply-accumulates instead of ${WORDS.format(macs)} (${share.toFixed(2)}×), ${rows.length} of ${layers.length} layers change.`),
      el("div", { class: "net-scroll", tabindex: 0, role: "region", "aria-label": "Layers that change" }, el("table", {},
        el("thead", {}, el("tr", {}, ["layer", "shape", "MACs", "sees"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, rows.map(([old, next]) => el("tr", {}, el("th", { scope: "row" }, next.name), both(times(old.shape), times(next.shape)), both(WORDS.format(old.macs), WORDS.format(next.macs)), both(sees(old), sees(next))))))),
    ];
  }
}
