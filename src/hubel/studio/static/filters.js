// The filter visualiser: an image, a kernel that slides over it, and the arithmetic of one output pixel.
import { KERNELS, convolve, patch, pool, resized, size } from "./convolve.js";
import { ARROWS, api, attempt, colour, drawing, field, h, keep, number, paint, palette, say, select } from "./dom.js";

const OPERATIONS = { convolution: "Convolution", max: "Max pooling", average: "Average pooling" };
const SLICES = ["red", "green", "blue"];
const LIMITS = { kernel: [1, 11], stride: [1, 8], padding: [0, 10], dilation: [1, 5] };
const [SHOWN, ROOMY] = [5, 4]; // the largest kernel whose numbers are written out, and in full
const whole = (value) => value.toLocaleString("en");

export async function mount(root, query) {
  const chosen = (name, otherwise, allowed) => (allowed.includes(query.get(name)) ? query.get(name) : otherwise);
  const count = (name, otherwise) => {
    const [least, most] = LIMITS[name];
    return Math.min(most, Math.max(least, parseInt(query.get(name) ?? otherwise, 10) || least));
  };
  const state = {
    image: chosen("image", "china", ["china", "flower", "digit"]),
    side: chosen("side", "128", ["256", "128", "64", "32", "16"]),
    colour: chosen("colour", "grey", ["grey", "rgb"]),
    operation: chosen("operation", "convolution", Object.keys(OPERATIONS)),
    preset: chosen("preset", "Sobel x", Object.keys(KERNELS)),
    angle: parseInt(query.get("angle"), 10) || 45,
    kernel: count("kernel", 3),
    stride: count("stride", 1),
    padding: count("padding", 1),
    dilation: count("dilation", 1),
  };
  let [own, learned, slice, weights, image, output, shown, playing] = [null, null, 0, [], null, null, null, 0];
  let [row, column] = [parseInt(query.get("row"), 10) || 0, parseInt(query.get("column"), 10) || 0];
  let before = "Sobel x"; // the kernel to go back to where a filter of a run can't be had

  const parts = Object.fromEntries(["controls", "editor", "sum", "formula"].map((name) => [name, h.div({ class: name })]));
  const [input, response, rectified] = [view("Input", at), view("Response", (y, x) => [y, x]), view("After ReLU", (y, x) => [y, x])];
  const scrub = h.input({ type: "range", min: 0, "aria-label": "Position of the window", oninput: () => go(scrub.valueAsNumber, true) });
  const play = h.button({ class: "primary", onclick: () => (playing ? pause() : start()) }, "Play");
  const step = h.button({ onclick: () => { pause(); go(row * output.width + column + 1, true); } }, "Step");
  root.append(
    h.h1("What a filter does"),
    h.p({ class: "quiet" },
      "A window slides over the image; at each position its numbers are multiplied by the kernel’s and summed. ",
      "Point at an output pixel, or move with the arrow keys, to see which numbers made it."),
    h.div({ class: "bench" },
      h.div({ class: "side" }, parts.controls, parts.editor),
      h.div({ class: "stage" },
        h.div({ class: "pictures" }, input.figure, response.figure, rectified.figure),
        h.div({ class: "slide" }, play, step, scrub), parts.formula, parts.sum)),
  );

  /** A picture with a frame that is drawn over it; `from` turns a place in it into an output pixel. */
  function view(title, from) {
    const [canvas, over, caption] = [h.canvas(), drawing("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }), h.figcaption()];
    const pad = h.div({ class: "pad" }, canvas, over);
    pad.addEventListener("pointermove", (event) => {
      if (playing || !output) return;
      const box = pad.getBoundingClientRect();
      const place = [((event.clientY - box.top) / box.height) * canvas.height, ((event.clientX - box.left) / box.width) * canvas.width];
      point(...from(...place.map(Math.floor)), false);
    });
    return { figure: h.figure(h.h2(title), pad, caption), canvas, over, caption, pad };
  }
  const named = (made, given) => Object.entries(given).forEach(([name, value]) => made.setAttribute(name, value));
  named(response.pad, { role: "slider", tabindex: "0", "aria-label": "Output pixel", "aria-valuenow": "0" });
  named(parts.sum, { role: "region", tabindex: "0", "aria-label": "Arithmetic of the output pixel" }); // it may scroll
  response.pad.addEventListener("keydown", (event) => {
    const moved = { ...ARROWS, Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    if (!moved || !output) return;
    event.preventDefault();
    pause();
    point(row + moved[0], column + moved[1], false);
  });

  function at(y, x) { // the window whose middle is nearest
    const middle = (state.dilation * (state.kernel - 1)) / 2;
    return [y, x].map((place) => Math.round((place - middle) / state.stride));
  }

  // --- settings --------------------------------------------------------------------------------------------------
  const file = h.input({ type: "file", accept: "image/*", hidden: true, id: "own-image", onchange: () => {
    if (!file.files[0]) return;
    [own, state.image] = [file.files[0], "own"];
    load();
  } });
  let [runs, drawn, edited, framed, writing] = [[], "", "", null, 0];

  function controls() {
    const set = (name) => (value) => { state[name] = value; change(); };
    const reload = (name) => (value) => { state[name] = value; load(); };
    const images = [["china", "temple"], "flower", ["digit", "handwritten 3"], ...(own ? [["own", own.name]] : [])];
    const stepper = (name) => {
      const [least, most] = LIMITS[name];
      const box = h.input({ type: "number", min: least, max: most, value: state[name], name, onchange: () => {
        const asked = Math.min(most, Math.max(least, Math.round(box.valueAsNumber) || least));
        if (name === "kernel" && state.preset === "own numbers") weights = resized(weights, planes(), state.kernel, asked);
        if (name === "kernel" && learned) [learned, state.preset] = [null, "Sobel x"];
        state[name] = box.value = asked;
        change();
      } });
      return field(name === "kernel" ? "kernel size" : name, box);
    };
    const pooling = state.operation !== "convolution";
    const mine = [...Object.keys(KERNELS), "own numbers", ...runs.map((run) => [`run ${run}`, `learned: ${run}`])];
    const { kernel, stride, padding, dilation, angle, ...structure } = state;
    const now = JSON.stringify([structure, mine, own?.name, Boolean(learned)]);
    if (now === drawn) {
      for (const [name, value] of Object.entries({ kernel, stride, padding, dilation, angle })) {
        const box = parts.controls.querySelector(`[name="${name}"]`);
        if (box) box.value = value;
      }
      return;
    }
    drawn = now;
    const focused = document.activeElement?.name;
    parts.controls.replaceChildren(...[
      field("image", select(images, state.image, reload("image"), { name: "image" }),
        h.button({ type: "button", onclick: () => file.click() }, "Your own…"), file),
      h.div({ class: "pair-of-fields" },
        field("longest side", select(["256", "128", "64", "32", "16"], state.side, reload("side"), { name: "side" })),
        field("channels", select([["grey", "grey, 1"], ["rgb", "colour, 3"]], state.colour, reload("colour"),
          { name: "colour", disabled: Boolean(learned) }))),
      field("operation", select(Object.entries(OPERATIONS), state.operation, (value) => {
        if (value !== "convolution") [state.padding, learned] = [Math.min(state.padding, Math.floor(state.kernel / 2)), null];
        if (state.preset.startsWith("run ")) state.preset = before;
        set("operation")(value);
      }, { name: "operation" })),
      !pooling && field("kernel", select(mine, state.preset, preset, { name: "preset" })),
      !pooling && state.preset === "Gabor" && field("angle in degrees", h.input({
        type: "range", min: 0, max: 175, step: 5, name: "angle", value: state.angle,
        oninput: (event) => set("angle")(event.target.valueAsNumber),
      })),
      h.div({ class: "pair-of-fields" }, ["kernel", "stride", "padding", "dilation"].map(stepper)),
    ].filter(Boolean));
    if (focused) parts.controls.querySelector(`[name="${focused}"]`)?.focus();
  }

  function preset(name) {
    if (!name.startsWith("run ")) {
      [before, learned, state.preset] = [name, null, name];
      return change();
    }
    return attempt(async () => {
      const said = await api(`/api/filters?run=${encodeURIComponent(name.slice(4))}`);
      learned = { ...said, filter: 0 };
      [state.preset, state.kernel, state.colour] = [name, said.size, said.channels === 3 ? "rgb" : "grey"];
      state.padding = Math.floor(said.size / 2);
      await load();
    }).then(() => { if (!learned) controls(); });
  }

  const planes = () => image?.channels ?? 1;

  function editor() {
    if (state.operation !== "convolution") return void [edited = "", parts.editor.replaceChildren()];
    const [k, area] = [state.kernel, state.kernel ** 2];
    const color = palette(-1, 1);
    const top = Math.max(...weights.map(Math.abs), 1e-9);
    const text = (value) => number(value, k > SHOWN ? 1 : k > ROOMY ? 2 : 3).replace("−", "-");
    const shownNow = weights.slice(slice === 3 ? 0 : slice * area).slice(0, area);
    const now = JSON.stringify([k, slice, planes(), learned?.filters.length]);
    if (now === edited) { // the same boxes, other numbers: making them anew would take longer than all the arithmetic
      parts.editor.querySelectorAll(".grid input").forEach((box, at) => {
        if (box.value !== text(shownNow[at])) box.value = text(shownNow[at]);
        for (const [name, value] of Object.entries(tint(color, shownNow[at] / top))) box.style.setProperty(name, value);
      });
      const filter = parts.editor.querySelector("[name=filter]");
      if (filter) filter.value = Math.max(0, learned.filter);
      return;
    }
    edited = now;
    const cell = (value, at) => {
      const label = `row ${Math.floor(at / k) + 1}, column ${(at % k) + 1}`;
      const box = h.input({ inputmode: "decimal", value: text(value), "aria-label": label, style: tint(color, value / top), onchange: () => {
        const asked = Number(box.value.replace(",", ".").replace("−", "-"));
        if (!Number.isFinite(asked)) return say(`${box.value} is no number: write one such as -0.5.`);
        say();
        for (let c = 0; c < planes(); c++) if (planes() === 1 || slice === 3 || slice === c) weights[c * area + at] = asked;
        [learned, state.preset] = [learned && { ...learned, filter: -1 }, learned ? state.preset : "own numbers"];
        return change();
      } });
      return box;
    };
    parts.editor.replaceChildren(...[
      h.h2("Kernel"),
      planes() === 3 && h.div({ class: "choices", role: "group", "aria-label": "Slice of the kernel" }, [...SLICES, "all"].map((name, at) =>
        h.button({ "aria-pressed": String(slice === at), onclick: () => { slice = at; editor(); } }, name))),
      h.div({ class: "grid", role: "group", "aria-label": "Kernel", style: { "--k": k } }, shownNow.map(cell)),
      learned && h.div({ class: "learned" },
        field(`filter of ${learned.filters.length}`, h.input({
          type: "number", name: "filter", min: 0, max: learned.filters.length - 1, value: Math.max(0, learned.filter),
          onchange: (event) => {
            learned.filter = Math.min(learned.filters.length - 1, Math.max(0, event.target.valueAsNumber || 0));
            change();
          },
        })),
        h.p({ class: "quiet" }, "The image is normalised as the network sees it; this is its first layer’s answer, before bias and batch norm.")),
    ].filter(Boolean));
  }

  // --- work ------------------------------------------------------------------------------------------------------
  async function load() {
    pause();
    await attempt(async () => {
      const address = state.image === "own" ? own : await fetch(`/api/samples/${state.image}.png`).then((answer) => answer.blob());
      const bitmap = await createImageBitmap(address).catch(() => {
        throw new Error(`${own?.name ?? "The file"} can't be read as an image: choose a JPEG, PNG or WebP.`);
      });
      const scale = Math.min(1, Number(state.side) / Math.max(bitmap.width, bitmap.height));
      const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
      const canvas = h.canvas({ width, height });
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, width, height);
      context.drawImage(bitmap, 0, 0, width, height);
      const { data } = context.getImageData(0, 0, width, height);
      const [channels, area] = [state.colour === "rgb" ? 3 : 1, width * height];
      const values = new Float32Array(channels * area);
      for (let i = 0; i < area; i++) {
        const [r, g, b] = data.subarray(4 * i, 4 * i + 3);
        if (channels === 1) values[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
        else [values[i], values[i + area], values[i + 2 * area]] = [r, g, b];
      }
      image = { planes: values, channels, height, width };
    });
    if (state.image === "own" && image === null) state.image = "china";
    change();
  }

  /** What the kernel is applied to: grey levels 0 to 255, or what the network's preprocessing makes of them. */
  function seen() {
    if (!learned) return image;
    const area = image.height * image.width;
    return { ...image, planes: image.planes.map((value, i) => {
      const c = Math.floor(i / area);
      return (value / 255 - learned.mean[c]) / learned.std[c];
    }) };
  }

  function change() {
    if (!image) return;
    const began = performance.now();
    if (learned) { if (learned.filter >= 0) weights = learned.filters[learned.filter].slice(); }
    else if (state.preset !== "own numbers") weights = Array(planes()).fill(KERNELS[state.preset](state.kernel, state.angle)).flat();
    else if (weights.length !== planes() * state.kernel ** 2) weights = Array(planes()).fill(weights.slice(0, state.kernel ** 2)).flat();
    slice = planes() === 1 ? 0 : slice;
    controls();
    editor();
    remember();
    const [height, width] = [size(image.height, state), size(image.width, state)];
    const trouble = wrong(height, width);
    root.classList.toggle("impossible", Boolean(trouble));
    output = null;
    if (trouble) return void parts.formula.replaceChildren(h.p({ class: "notice" }, trouble));
    shown = { ...seen() };
    output = state.operation === "convolution" ? convolve(shown, weights, state) : pool(shown, state.operation, state);
    draw();
    scrub.max = height * width - 1;
    formula();
    point(row, column, false);
    performance.measure("filter", { start: began });
  }

  function wrong(height, width) {
    const span = state.dilation * (state.kernel - 1) + 1;
    const half = Math.floor(state.kernel / 2);
    if (state.operation !== "convolution" && state.padding > half) {
      return `Pooling takes a padding of at most half the kernel, ${half} here: lower the padding.`;
    }
    if (height < 1 || width < 1) {
      const room = Math.min(image.height, image.width) + 2 * state.padding;
      return `The window spans ${span} pixels, and the image with its padding ${room}: lower kernel or dilation, or raise the padding.`;
    }
    return "";
  }

  function drawInput() {
    const p = state.padding;
    const now = JSON.stringify([p, colour("second")]);
    if (framed?.image === image && framed.now === now) return;
    framed = { image, now };
    const [tall, wide, area] = [image.height + 2 * p, image.width + 2 * p, image.height * image.width];
    const inside = (y, x) => y >= p && x >= p && y < image.height + p && x < image.width + p;
    const margin = palette(-1, 1)(-0.16);
    const frame = new Float32Array(3 * tall * wide);
    for (let c = 0; c < 3; c++) for (let y = 0; y < tall; y++) for (let x = 0; x < wide; x++) {
      const from = (image.channels === 3 ? c : 0) * area + (y - p) * image.width + x - p;
      frame[(c * tall + y) * wide + x] = inside(y, x) ? image.planes[from] : margin[c];
    }
    paint(input.canvas, frame, tall, wide);
    const depth = image.channels === 3 ? "3 channels" : "1 channel";
    input.caption.textContent = `${image.height} × ${image.width} pixels, ${depth}${p ? `; padded by ${p}` : ""}`;
  }

  function draw() {
    drawInput();
    let [low, high, quiet] = [Infinity, -Infinity, 0];
    for (const value of output.planes) {
      if (value < low) low = value;
      if (value > high) high = value;
      if (value <= 0) quiet++;
    }
    const colours = output.channels === 3 ? undefined : { low, high, power: 0.6 };
    paint(response.canvas, output.planes, output.height, output.width, colours);
    const legend = low < 0 ? "; orange is below zero, blue above" : "";
    response.caption.textContent = `${output.height} × ${output.width}, from ${number(low)} to ${number(high)}${legend}`;
    response.still = response.canvas.getContext("2d").getImageData(0, 0, output.width, output.height);
    rectified.figure.hidden = state.operation !== "convolution";
    if (rectified.figure.hidden) return;
    paint(rectified.canvas, output.planes.map((value) => Math.max(0, value)), output.height, output.width, colours);
    rectified.caption.textContent = `max(0, response): ${Math.round((100 * quiet) / output.planes.length)} % of the pixels are 0`;
    rectified.still = rectified.canvas.getContext("2d").getImageData(0, 0, output.width, output.height);
  }

  function formula() {
    const { kernel: k, stride: s, padding: p, dilation: d } = state;
    const put = (n) => `⌊(${n} + 2·${p} − ${d}·(${k} − 1) − 1) / ${s}⌋ + 1 = `;
    const line = (axis, n, result) => h.tr(h.th({ scope: "row" }, axis), h.td(h.code(put(n), h.b(result))));
    const products = output.height * output.width * planes() * k * k;
    parts.formula.replaceChildren(
      h.table(h.caption("Output size: ", h.code("⌊(n + 2p − d(k − 1) − 1) / s⌋ + 1")),
        h.tbody(line("height", image.height, output.height), line("width", image.width, output.width))),
      h.p({ class: "quiet" }, state.operation === "convolution"
        ? `${whole(weights.length)} weights, ${whole(products)} multiplications.`
        : `No weights; each channel is pooled by itself, ${whole(products)} numbers are looked at.`),
    );
  }

  // --- one output pixel ------------------------------------------------------------------------------------------
  function point(y, x, reveal) {
    if (!output) return;
    [row, column] = [Math.min(output.height - 1, Math.max(0, y)), Math.min(output.width - 1, Math.max(0, x))];
    const index = row * output.width + column;
    scrub.value = index;
    for (const each of [response, rectified]) {
      if (!each.still || each.figure.hidden) continue;
      const context = each.canvas.getContext("2d");
      context.putImageData(each.still, 0, 0);
      if (reveal) {
        context.clearRect(column + 1, row, output.width, 1);
        context.clearRect(0, row + 1, output.width, output.height);
      }
      frame(each, output.height, output.width, [rect(column, row, 1, 1, "dot")]);
    }
    const { kernel: k, stride: s, padding: p, dilation: d } = state;
    const cells = Array.from({ length: k * k }, (_, i) => rect(column * s + (i % k) * d, row * s + Math.floor(i / k) * d, 1, 1, "cell"));
    const span = d * (k - 1) + 1;
    const edge = p ? [rect(p, p, image.width, image.height, "edge")] : [];
    const slid = rect(column * s, row * s, span, span, "window");
    frame(input, image.height + 2 * p, image.width + 2 * p, [...edge, ...(d > 1 ? cells : []), slid]);
    sums(index);
  }
  const rect = (x, y, width, height, kind) => drawing("rect", { x, y, width, height, class: kind });
  function frame(each, height, width, shapes) {
    each.over.setAttribute("viewBox", `0 0 ${width} ${height}`);
    each.over.replaceChildren(...shapes);
  }
  const go = (index, reveal) => point(Math.floor(index / output.width), index % output.width, reveal);

  function tint(color, share) {
    const rgb = color(Math.max(-1, Math.min(1, share))).map(Math.round);
    const light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
    return { "background-color": `rgb(${rgb.join(" ")})`, color: light > 128 ? "#0b0d10" : "#ffffff" };
  }

  function sums(index) {
    const [k, area] = [state.kernel, output.height * output.width];
    const grey = palette(0, 1);
    const signed = palette(-1, 1);
    const grid = (values, color, top, label, winner = -1) => {
      const said = { role: "img", "aria-label": `${label}: ${values.map((value) => (value === null ? "padding" : number(value))).join(", ")}` };
      if (k > SHOWN) {
        const canvas = h.canvas({ class: "many", ...said });
        paint(canvas, values.map((value) => value ?? 0), k, k, { low: color === grey ? 0 : -top, high: top });
        return canvas;
      }
      const kind = (value, i) => [value === null && "outside", i === winner && "winner"].filter(Boolean).join(" ");
      return h.div({ class: `grid${k > ROOMY ? " some" : ""}`, style: { "--k": k }, ...said },
        values.map((value, i) => h.span({ class: kind(value, i), style: tint(color, (value ?? 0) / top) }, number(value ?? 0, k > ROOMY ? 2 : 3))));
    };
    const names = planes() === 3 ? SLICES : ["grey"];
    const convolving = state.operation === "convolution";
    const totals = [];
    const lines = names.map((name, c) => {
      const part = patch(shown, c, row, column, state);
      const pixels = (label, winner) => h.figure(grid(part, learned ? signed : grey, learned ? 3 : 255, label, winner), h.figcaption(label));
      if (!convolving) {
        const value = output.planes[c * area + index];
        const winner = state.operation === "max" ? part.indexOf(value) : -1;
        const how = state.operation === "max" ? "largest" : `sum ÷ ${k * k}`;
        return h.div({ class: "equation" }, pixels(`${name} patch`, winner), h.b(`${how} = ${number(value)}`));
      }
      const kernel = weights.slice(c * k * k, (c + 1) * k * k);
      const products = part.map((value, i) => (value ?? 0) * kernel[i]);
      totals.push(products.reduce((a, b) => a + b, 0));
      const most = (values) => Math.max(...values.map(Math.abs), 1e-9);
      return h.div({ class: "equation" }, pixels(`${name} patch`), h.i("×"),
        h.figure(grid(kernel, signed, most(weights), `${name} kernel`), h.figcaption("kernel")), h.i("="),
        h.figure(grid(products, signed, most(products), `${name} products`), h.figcaption("products")),
        h.b(`sum ${number(totals.at(-1), 4)}`));
    });
    const value = convolving ? totals.reduce((a, b) => a + b, 0) : output.planes[index];
    const place = `row ${row}, column ${column}`;
    const addends = totals.map((total) => number(total, 4)).join(" + ").replaceAll("+ −", "− ");
    const said = totals.length > 1 ? `${addends} = ${number(value, 4)}` : number(value, 4);
    named(response.pad, { "aria-valuemin": 0, "aria-valuemax": area - 1, "aria-valuenow": index, "aria-valuetext": `${place}: ${number(value, 4)}` });
    parts.sum.replaceChildren(h.h2(`Output at ${place}`), ...lines);
    if (convolving) parts.sum.append(h.p({ class: "total" }, said, h.span(` → ReLU → ${number(Math.max(0, value), 4)}`)));
  }

  // --- sliding ---------------------------------------------------------------------------------------------------
  function start() {
    const [all, from] = [output.height * output.width, row * output.width + column];
    const [first, perSecond] = [from >= all - 1 ? 0 : from, Math.max(3, all / 15)];
    const began = performance.now();
    play.textContent = "Pause";
    const tick = (now) => {
      const index = Math.min(all - 1, first + Math.floor((Math.max(0, now - began) / 1000) * perSecond));
      go(index, index < all - 1);
      if (index >= all - 1) pause();
      else playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
  }
  function pause() {
    cancelAnimationFrame(playing);
    playing = 0;
    play.textContent = "Play";
  }

  function remember() { // not at each change: a browser takes its time for it
    clearTimeout(writing);
    writing = setTimeout(write, 300);
  }
  function write() {
    const useless = (name, value) => (name === "angle" && state.preset !== "Gabor") || ["own", "own numbers"].includes(value);
    const kept = Object.entries(state).filter(([name, value]) => !useless(name, value));
    keep("filters", kept);
  }

  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", change);
  await load();
  const wanted = query.get("run");
  attempt(async () => {
    runs = (await api("/api/runs")).runs.filter((run) => run.state === "finished").map((run) => run.name);
    controls();
    if (runs.includes(wanted)) await preset(`run ${wanted}`);
  });
  return () => {
    pause();
    clearTimeout(writing);
    scheme.removeEventListener("change", change);
  };
}
