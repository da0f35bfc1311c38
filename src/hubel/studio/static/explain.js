// The panel that explains an image, the user's file or one of the run's: answer, map, trust, and what is most alike.
import { api, attempt, field, h, select } from "./dom.js";
import { ask, percent } from "./follow.js";

const TRUST = { trusted: "What the map points at matters", doubted: "Do not rely on this map" };
const picture = (source, alt, kind = "px") => h.img({ src: source, alt, class: kind });

/** { root, take(blob, name) } */
export function explainer(run) {
  const [settings, answer] = [h.div({ class: "bar-of-controls" }), h.div({ class: "answer", "aria-live": "polite" })];
  const choice = { method: "gradcam", layer: "", label: "" };
  let [image, name, turn] = [null, "", 0];
  const mine = (file) => file && take(file, file.name);
  const file = h.input({ type: "file", accept: "image/*", id: "explain-file", onchange: () => mine(file.files[0]) });
  const root = h.div({ class: "explainer", ondragover: (event) => event.preventDefault(), ondrop: (event) => {
    event.preventDefault();
    mine(event.dataTransfer.files[0]);
  } }, field("an image from this computer; it goes no further than this machine", file), settings, answer);

  async function take(blob, called) {
    [image, name] = [blob, called];
    root.scrollIntoView({ block: "nearest" });
    await again();
  }
  async function choices() {
    if (settings.childElementCount) return;
    const { methods, layers, classes } = await api(ask("layers", { run }));
    const set = (key) => (value) => { choice[key] = value; again(); };
    settings.replaceChildren(
      field("method", select(methods, choice.method, set("method"), { name: "method" })),
      field("layer", select([["", "chosen for you"], ...layers], "", set("layer"), { name: "layer" })),
      field("class", select([["", "the likeliest"], ...classes], "", set("label"), { name: "class" })));
  }
  const again = () => image && attempt(async () => {
    const now = ++turn;
    answer.replaceChildren(h.p({ class: "quiet" }, "Looking…"));
    try {
      await choices();
      const said = await api(ask("explain", { run, ...choice }), image);
      if (now === turn) answer.replaceChildren(...shown(said, name));
    } catch (error) {
      if (now === turn) answer.replaceChildren();
      throw error;
    }
  });
  return { root, take };
}

function shown(said, name) {
  const trust = said.note ? "" : said.trusted ? "trusted" : "doubted";
  const how = said.layer ? `${said.method} at ${said.layer}` : said.method;
  const odds = ([label, p]) => h.tr(h.th({ scope: "row" }, label), h.td(h.span({ class: "bar", style: { "--v": p } }, h.span(percent(p)))));
  const [put, taken] = [said.insertion, said.deletion].map((each) => each?.toFixed(3));
  const area = put && `Area under the probability: ${put} as the map’s pixels are put in, ${taken} as they are taken away. `;
  const alike = (each) => h.li(picture(each.picture, each.path), h.b(each.label), ` ${each.cosine.toFixed(2)}`);
  return [
    h.div({ class: "maps" },
      h.figure(picture(said.image, `${name} as the network sees it`), h.figcaption(`${name}, as the network sees it`)),
      h.figure(picture(said.overlay, `Map of what speaks for ${said.target}`, "px map"), h.figcaption(`What speaks for ${said.target}: ${how}`)),
      h.div({ class: "odds" }, h.h3("Answer"), h.table(h.tbody(Object.entries(said.probabilities).map(odds))))),
    h.div({ class: `trust ${trust}` }, h.h3(TRUST[trust] ?? "No map"), h.p(said.note || said.trust), 
      h.p({ class: "quiet" }, area, said.reason && `Layer: ${said.reason}.`)),
    said.alike.length > 0 && h.div(h.h3("Most alike in training"), h.ul({ class: "cards small" }, said.alike.map(alike))),
  ].filter(Boolean);
}
