// The course: the pages of docs/course, with a link to the right setting, a question, and a check that runs.
import { api, attempt, element } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)]+)\)/g;

function inline(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [all, code, bold, label, link] = found;
    parts.push(text.slice(end, found.index));
    end = found.index + all.length;
    if (code) parts.push(element("code", {}, code));
    else if (bold) parts.push(element("strong", {}, bold));
    else parts.push(link.startsWith("#/") ? element("a", { href: link }, inline(label)) : inline(label));
  }
  return [...parts, text.slice(end)];
}

/** Headings, paragraphs and code; whatever else Markdown can do, the course doesn't. */
function blocks(text) {
  return text.split(/(```\w*\n[\s\S]*?```)/).flatMap((part) => {
    if (part.startsWith("```")) return [element("pre", { tabindex: 0 }, element("code", {}, part.slice(part.indexOf("\n") + 1, -3).trimEnd()))];
    return part.split(/\n\n+/).filter((each) => each.trim()).map((each) => {
      const heading = /^(#+) (.*)/.exec(each.trim());
      return heading ? element(`h${heading[1].length}`, {}, heading[2]) : element("p", {}, inline(each.trim().replaceAll("\n", " ")));
    });
  });
}

const done = () => JSON.parse(localStorage.getItem("hubel-course") ?? "[]");

export async function mount(root, query) {
  const pages = await api("/api/course"), names = Object.keys(pages);
  const page = names.includes(query.get("page")) ? query.get("page") : names[0], at = names.indexOf(page);
  const title = (name) => pages[name].match(/^# (.*)/)[1];
  const link = (name, text = title(name)) => element("a", { href: `#/course?page=${name}`, "aria-current": name === page && "page" }, text);
  const steps = element("ol", {});
  const list = () => steps.replaceChildren(...names.map((name) => element("li", { class: done().includes(name) && "done" }, link(name), done().includes(name) && element("span", { class: "sr" }, " checked"))));
  const [text, answer] = pages[page].split("## Answer\n");
  const said = element("div", { role: "status" });
  const button = element("button", { class: "primary", onclick: () => attempt(run) }, "Run the check");
  async function run() {
    button.disabled = true;
    said.replaceChildren(element("p", { class: "quiet" }, "It runs …"));
    try {
      const found = await api(`/api/course/check/${page}`, {});
      said.replaceChildren(element("pre", { tabindex: 0 }, found.said), element("p", {}, element("strong", {}, found.right ? "The answer holds." : "The answer does not hold.")));
      if (found.right) localStorage.setItem("hubel-course", JSON.stringify([...new Set([...done(), page])]));
      list();
    } finally {
      button.disabled = false;
      if (said.textContent === "It runs …") said.replaceChildren();
    }
  }
  list();
  root.replaceChildren(
    element("nav", { class: "course-steps", "aria-label": "Steps of the course" }, steps),
    element("article", { class: "course-page" }, blocks(text),
      element("details", {}, element("summary", {}, "Answer"), blocks(answer), button, said),
      element("p", { class: "course-next" }, at > 0 && link(names[at - 1], `← ${title(names[at - 1])}`), at + 1 < names.length && link(names[at + 1], `${title(names[at + 1])} →`))));
  steps.scrollLeft = steps.children[at].offsetLeft - steps.offsetLeft - 40; // on a phone the list is a row that scrolls
}
