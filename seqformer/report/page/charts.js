"use strict";

const CURVES = ["IoU 0.50", "IoU 0.75", "mean of IoU 0.50 to 0.95"];
const DASHES = ["", "7 4", "2 3"];

/** Precision over recall for one class id, or "" for the mean. */
function drawCurves(categoryId) {
  const row = report.classes.find((one) => String(one.id) === categoryId);
  const curves = row ? row.curves : report.meanCurves;
  const name = row ? row.name : "mean of all classes";
  const width = 560, height = 330, left = 46, right = 14, top = 10, bottom = 42;
  const x = (recall) => left + recall * (width - left - right);
  const y = (precision) => top + (1 - precision) * (height - top - bottom);
  const areas = curves.map((curve) => percent(curve.reduce((sum, p) => sum + p, 0) / curve.length));
  const chart = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", width: "100%",
    "aria-label": `Precision over recall, ${name}: ` + CURVES.map((label, i) => `${label} ${areas[i] ?? "–"}`).join(", "),
  });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(
      svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: y(0), y2: y(1) }),
      svg("line", { class: "grid", x1: x(0), x2: x(1), y1: y(tick), y2: y(tick) }),
      svg("text", { class: "quiet-text", x: x(tick), y: y(0) + 17, "text-anchor": "middle" }, String(100 * tick)),
      svg("text", { class: "quiet-text", x: x(0) - 8, y: y(tick) + 4, "text-anchor": "end" }, String(100 * tick)),
    );
  }
  chart.append(
    svg("line", { class: "axis", x1: x(0), x2: x(1), y1: y(0), y2: y(0) }),
    svg("line", { class: "axis", x1: x(0), x2: x(0), y1: y(0), y2: y(1) }),
    svg("text", { class: "quiet-text", x: x(0.5), y: height - 6, "text-anchor": "middle" }, "recall in percent"),
    svg("text", { class: "quiet-text", transform: `translate(13 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "precision in percent"),
  );
  curves.forEach((curve, i) => {
    const points = curve.map((precision, r) => `${x(r / 100).toFixed(1)},${y(precision).toFixed(1)}`);
    chart.append(svg("polyline", {
      points: points.join(" "), fill: "none", stroke: `var(--series-${i})`, "stroke-width": 2.2,
      "stroke-dasharray": DASHES[i], "stroke-linejoin": "round",
    }));
  });
  const marker = svg("line", { class: "axis", y1: y(0), y2: y(1), visibility: "hidden" });
  chart.append(marker);

  const legend = element("div", { class: "legend" });
  const values = CURVES.map((label, i) => {
    const value = element("span", {}, areas[i] === undefined ? "" : `AP ${areas[i]}`);
    const line = svg("svg", { width: 26, height: 8, "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: `var(--series-${i})`, "stroke-width": 2.5, "stroke-dasharray": DASHES[i] }));
    legend.append(element("span", {}, line, ` ${label} `, value));
    return value;
  });
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const recall = ((event.clientX - box.left) * width / box.width - left) / (width - left - right);
    const r = Math.round(100 * Math.min(1, Math.max(0, recall)));
    marker.setAttribute("x1", x(r / 100));
    marker.setAttribute("x2", x(r / 100));
    marker.setAttribute("visibility", "visible");
    curves.forEach((curve, i) => { values[i].textContent = `${percent(curve[r])} at recall ${r}`; });
  });
  chart.addEventListener("pointerleave", () => {
    marker.setAttribute("visibility", "hidden");
    curves.forEach((_, i) => { values[i].textContent = `AP ${areas[i]}`; });
  });
  document.getElementById("curve-chart").replaceChildren(legend, chart);
}
