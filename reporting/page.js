"use strict";
// A header's button sorts the last body of its table: upwards, and downwards on the second press. Unknown values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[table.tBodies.length - 1];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
    const compare = header.dataset.kind === "text" ? (a, b) => a.localeCompare(b) : (a, b) => a - b;
    keyed.sort(([a], [b]) => (a === undefined) - (b === undefined) || (a === undefined ? 0 : sign * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  }));
}
// The search leaves the rows and the commands whose name holds its text, in any case; the fixed rows, such as Retrain, stay.
const search = document.querySelector(".search"), field = search.querySelector("input"), count = search.querySelector("output");
const nameOf = (part) => part.firstElementChild.textContent.toLowerCase().replace(/ \(\d+ runs?\)$/, "");
const fixed = new Set([...document.querySelectorAll("table.sortable tbody.fixed tr")].map(nameOf));
const parts = [...document.querySelectorAll("table.sortable tbody:not(.fixed) tr, .origins details")].filter((part) => !fixed.has(nameOf(part)));
const names = [...new Set(parts.map(nameOf))];
const filter = () => {
  const text = field.value.trim().toLowerCase();
  for (const part of parts) part.hidden = !nameOf(part).includes(text);
  count.textContent = text ? `${names.filter((name) => name.includes(text)).length} of ${names.length} rows` : "";
};
field.addEventListener("input", filter);
search.hidden = false;
filter();
