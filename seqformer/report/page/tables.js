"use strict";

/** Mark the sorted column and give the new direction: a second click turns it round. */
function turnColumn(table, button, startsDescending) {
  const header = button.closest("th");
  const before = header.getAttribute("aria-sort");
  const first = startsDescending ? "descending" : "ascending";
  const second = startsDescending ? "ascending" : "descending";
  table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", before === first ? second : first);
  return header.getAttribute("aria-sort") === "ascending" ? 1 : -1;
}

/** Text in natural order, numbers by size. */
function compareValues(one, other) {
  if (typeof one === "number") return one - other;
  return one.localeCompare(other, "en", { numeric: true });
}

function setUpClassTable() {
  const table = document.getElementById("class-table");
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const key = button.dataset.sort;
    const direction = turnColumn(table, button, key !== "name");
    const value = (row) => (key === "name" ? row.getAttribute("data-name") : Number(row.getAttribute(`data-${key}`)));
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => direction * compareValues(value(one), value(other)));
    table.tBodies[0].append(...rows);
  });
}

/** Counts of all videos from the chosen score on. */
function updateFailureCounts() {
  const totals = {};
  for (const row of report.videos) {
    for (const [kind, count] of Object.entries(countFailures(row, state.score))) {
      totals[kind] = (totals[kind] || 0) + count;
    }
  }
  const largest = Math.max(1, ...Object.values(totals));
  for (const row of document.querySelectorAll("#kinds tbody tr")) {
    const count = totals[row.dataset.kind] || 0;
    row.querySelector("[data-count]").textContent = count;
    row.querySelector("[data-bar]").style.width = `${(100 * count) / largest}%`;
  }
  document.getElementById("score-value").textContent = state.score.toFixed(2);
}

const list = { key: "ap", direction: 1, positions: [] };

/** The videos that pass the filters, sorted; the ones without a number come last. */
function updateVideoList() {
  const kind = document.getElementById("kind-filter").value;
  const part = document.getElementById("name-filter").value.trim().toLowerCase();
  const failures = report.videos.map((row) => countFailures(row, state.score));
  const total = failures.map((counts) => Object.values(counts).reduce((sum, n) => sum + n, 0));
  const value = (position) => (list.key === "failures" ? total[position] : report.videos[position][list.key]);
  list.positions = report.videos.map((_, position) => position).filter((position) =>
    report.videos[position].name.toLowerCase().includes(part) && (!kind || failures[position][kind]));
  list.positions.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if ((a === -1) !== (b === -1)) return a === -1 ? 1 : -1;
    return list.direction * compareValues(a, b) || one - other;
  });
  const body = document.querySelector("#video-table tbody");
  body.replaceChildren(...list.positions.map((position) => {
    const row = report.videos[position];
    const parts = Object.entries(failures[position]).map(([name, count]) => `${count} × ${kindNames.get(name)}`);
    const tableRow = element("tr", { "data-position": position, "aria-selected": String(position === state.position) },
      element("td", { style: "text-align:left" },
        element("button", { type: "button", title: row.shown ? row.name : `${row.name} (numbers only)` }, row.name)),
      element("td", {}, percent(row.ap)),
      element("td", {}, row.worst < 0 ? "–" : row.worst.toFixed(2)),
      element("td", { title: parts.join(", ") || "none" }, String(total[position])));
    return tableRow;
  }));
  const shown = list.positions.length;
  document.getElementById("list-count").textContent =
    shown === report.videos.length ? `${shown} videos` : `${shown} of ${report.videos.length} videos`;
}

function markSelectedVideo() {
  for (const row of document.querySelectorAll("#video-table tbody tr")) {
    const isSelected = Number(row.dataset.position) === state.position;
    row.setAttribute("aria-selected", String(isSelected));
    if (isSelected) {
      const frame = row.closest(".scroll");
      const head = frame.querySelector("thead").offsetHeight;
      if (row.offsetTop - head < frame.scrollTop) frame.scrollTop = row.offsetTop - head;
      else if (row.offsetTop + row.offsetHeight > frame.scrollTop + frame.clientHeight) {
        frame.scrollTop = row.offsetTop + row.offsetHeight - frame.clientHeight;
      }
    }
  }
}

function setUpVideoList() {
  const table = document.getElementById("video-table");
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    list.key = button.dataset.sort;
    list.direction = turnColumn(table, button, list.key === "failures");
    updateVideoList();
  });
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) selectVideo(Number(row.dataset.position));
  });
  document.getElementById("kind-filter").addEventListener("change", updateVideoList);
  document.getElementById("name-filter").addEventListener("input", updateVideoList);
  table.querySelector('[data-sort="ap"]').closest("th").setAttribute("aria-sort", "ascending");
}
