// What every view builds with: elements, requests, and pixels that stay sharp.

/** element("button", { class: "primary", onclick: f, "aria-label": "…" }, "text", child, [more]) */
export function element(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  assign(made, given);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** The same by the tag's name, attributes only where there are some: h.p({ class: "quiet" }, "text"), h.p("text"). */
export const h = new Proxy({}, {
  get: (_, tag) => (first, ...others) =>
    first?.constructor === Object ? element(tag, first, ...others) : element(tag, {}, first, ...others),
});

/** The same for SVG. */
export function drawing(tag, given = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  assign(made, given);
  made.append(...children.flat(Infinity));
  return made;
}

function assign(made, given) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else if (name === "value" || name === "checked" || name === "selected") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
}

const key = `hubel-token-${location.port}`;
const fromAddress = new URLSearchParams(location.search).get("token");
if (fromAddress) {
  localStorage.setItem(key, fromAddress);
  history.replaceState(null, "", location.pathname + location.hash); // so that it is in no bookmark
}

/** Ask the server; `body` is a file or a plain object, which makes it a POST. Throws an Error that is a sentence. */
export async function api(path, body) {
  const plain = body !== undefined && !(body instanceof Blob);
  let answer;
  try {
    answer = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: { "X-Hubel-Token": localStorage.getItem(key) ?? "", ...(plain && { "Content-Type": "application/json" }) },
      body: plain ? JSON.stringify(body) : body,
    });
  } catch {
    throw new Error("The studio does not answer: is hubel studio still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error ?? `The studio could not answer (HTTP ${answer.status}).`);
  return said;
}

/** Show a sentence at the top; an empty one takes the last away. */
export function say(sentence = "") {
  document.getElementById("said").replaceChildren(sentence && element("p", { class: "notice" }, sentence));
}

/** Run something that may fail, and say so in a sentence. */
export async function attempt(work) {
  try {
    say();
    return await work();
  } catch (error) {
    say(error.message);
    return undefined;
  }
}

/** Keep a view's settings in the address, unless it already leads to another view, which is about to open. */
export function keep(view, settings) {
  const there = location.hash.replace(/^#\/?/, "").split("?")[0] || "filters";
  if (there === view) history.replaceState(null, "", `#/${view}?${new URLSearchParams(settings)}`);
}

/** A labelled control. */
export function field(label, control, ...more) {
  return element("label", { class: "field" }, element("span", {}, label), control, ...more);
}

export function select(options, value, onchange, given = {}) {
  const made = element(
    "select",
    { onchange: () => onchange(made.value), ...given },
    options.map((each) => {
      const [name, text] = Array.isArray(each) ? each : [each, each];
      return element("option", { value: name, selected: name === value }, text);
    }),
  );
  return made;
}

/** What the arrow keys do to [row, column]. */
export const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export const number = (value, digits = 3) => {
  if (!Number.isFinite(value)) return String(value);
  const rounded = Number(value.toPrecision(digits));
  return Math.abs(rounded) >= 1e5 || (rounded && Math.abs(rounded) < 1e-3)
    ? value.toExponential(1)
    : String(Math.abs(value) >= 100 ? Math.round(value) : rounded).replace("-", "−");
};

const known = new Map(); // asking the style sheet again after each change of the page would take longer than drawing
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => known.clear());
export function colour(role) {
  if (!known.has(role)) known.set(role, getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim());
  return known.get(role);
}
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** From a number to [r, g, b]: grey from 0 to `high`; with negative numbers, orange below zero and blue above it, which
    grow with a power of the number: one below 1 shows the small ones, too. */
export function palette(low, high, power = 1) {
  if (low >= 0) {
    const top = high || 1;
    return (value) => Array(3).fill((255 * value) / top);
  }
  const [ground, below, above] = ["ground", "second", "accent"].map((role) => channels(colour(role)));
  const top = Math.max(-low, high);
  return (value) => {
    const [share, end] = [Math.min(1, Math.abs(value) / top) ** power, value < 0 ? below : above];
    return ground.map((from, at) => from + share * (end[at] - from));
  };
}

/** Put numbers on a canvas of as many pixels: one plane (H·W) in the colours of a `scale`, { low, high, power }; or
    three planes, which are red, green and blue from 0 to 255. */
export function paint(canvas, values, height, width, scale) {
  canvas.width = width;
  canvas.height = height;
  const [context, area] = [canvas.getContext("2d"), height * width];
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const packed = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;
  if (!scale) {
    const byte = (at) => Math.max(0, Math.min(255, values[at]));
    for (let at = 0; at < area; at++) pixels[at] = packed([byte(at), byte(at + area), byte(at + 2 * area)]);
  } else {
    const [levels, colours, low] = [1023, palette(scale.low, scale.high, scale.power), Math.min(0, scale.low)];
    const span = Math.max(scale.high, 0) - low || 1;
    const table = Uint32Array.from({ length: levels + 1 }, (_, at) => packed(colours(low + (span * at) / levels)));
    for (let at = 0; at < area; at++) pixels[at] = table[Math.round((levels * (values[at] - low)) / span)];
  }
  context.putImageData(image, 0, 0);
}
