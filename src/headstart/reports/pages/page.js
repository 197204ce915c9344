"use strict";
/* For all pages: light and dark theme, sortable tables. */
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  button.hidden = false;
  name();

  const key = cell => {
    const text = cell.dataset.value ?? cell.textContent.trim(), number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  for (const header of document.querySelectorAll("table.sortable th[aria-sort]")) {
    header.querySelector("button").addEventListener("click", () => {
      const table = header.closest("table"), body = table.tBodies[0];
      const first = header.dataset.first || "ascending", other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      for (const each of table.querySelectorAll("th[aria-sort]")) each.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map(row => [key(row.cells[header.cellIndex]), row]);
      rows.sort(([a], [b]) => a === "" || b === "" ? compare(a, b) : sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  }
})();
