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
