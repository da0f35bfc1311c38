"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const matrix = document.getElementById("matrix");
  let opened = null;

  const close = () => {
    if (!opened) return;
    opened.panel.classList.remove("open");
    opened.link?.classList.remove("chosen");
    const back = opened.link;
    opened = null;
    back?.focus({ preventScroll: true });
  };
  const open = (id) => {
    const panel = document.getElementById(id);
    if (!panel?.classList.contains("panel")) return false;
    if (opened) close();
    const link = matrix?.querySelector(`a[href="#${CSS.escape(id)}"]`) ?? null;
    panel.classList.add("open");
    link?.classList.add("chosen");
    opened = { panel, link };
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
    return true;
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    if (link.classList.contains("close")) {
      close();
      event.preventDefault();
    } else if (open(link.getAttribute("href").slice(1))) {
      event.preventDefault();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = step && event.target.closest?.("#matrix td");
    if (!cell) return;
    let [row, column] = [cell.parentElement.rowIndex, cell.cellIndex];
    const rows = matrix.rows;
    for (;;) {
      row += step[0];
      column += step[1];
      if (!rows[row] || column < 1 || !rows[row].cells[column]) return;
      const link = rows[row].cells[column].querySelector("a");
      if (!link) continue;
      link.focus();
      event.preventDefault();
      return;
    }
  });
  if (location.hash) open(decodeURIComponent(location.hash.slice(1)));

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[head.cellIndex].dataset.value;
        const number = head.dataset.kind === "number";
        const order = (a, b) => (number ? value(a) - value(b) : value(a).localeCompare(value(b)));
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
      });
    }
  }

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    for (const details of unfolded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of unfolded) details.open = false;
  });
})();
