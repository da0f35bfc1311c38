// The shell: which view is open stands in the address, #/filters?preset=sobel-x, so that a link leads to a setting.
import { attempt, element } from "./dom.js";

const VIEWS = { filters: "Filters", network: "Network", runs: "Runs", course: "Course" };
const [views, main] = [document.getElementById("views"), document.getElementById("view")];
let leave = null;
let turn = 0;

async function open() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = path in VIEWS ? path : "filters";
  const mine = ++turn;
  leave?.();
  leave = null;
  document.title = `${VIEWS[name]} · hubel studio`;
  views.replaceChildren(
    ...Object.entries(VIEWS).map(([each, text]) =>
      element("a", { href: `#/${each}`, "aria-current": each === name && "page" }, text),
    ),
  );
  const root = element("div", { class: `view ${name}` });
  await attempt(async () => {
    const view = await import(`./${name}.js`).catch(() => null);
    if (mine !== turn) return;
    if (!view) throw new Error(`The view ${VIEWS[name]} is not installed.`);
    main.replaceChildren(root);
    const left = await view.mount(root, new URLSearchParams(query));
    if (mine === turn) leave = left;
    else left?.();
  });
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", open);
open();
