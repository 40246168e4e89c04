"use strict";

const CURVES = ["IoU 0.50", "IoU 0.75", "mean of IoU 0.50 to 0.95"];
const TRACKING_CURVES = ["HOTA", "DetA", "AssA", "LocA"];
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];

/** Precision over recall for one class id, or "" for the mean. */
function drawCurves(categoryId) {
  const row = report.classes.find((one) => String(one.id) === categoryId);
  const curves = row ? row.curves : report.meanCurves;
  lineChart("curve-chart", curves, {
    labels: CURVES, title: `Precision over recall, ${row ? row.name : "mean of all classes"}`,
    across: "recall in percent", up: "precision in percent",
    places: (curves[0] ?? []).map((_, r) => r / 100),
    mean: (value) => `AP ${value}`, at: (value, place) => `${value} at recall ${Math.round(100 * place)}`,
  });
}

/** HOTA and its parts over the IoU that a match needs, for one class id, or "" for the mean. */
function drawTracking(categoryId) {
  const row = report.classes.find((one) => String(one.id) === categoryId);
  lineChart("tracking-chart", report.tracking.curves[categoryId], {
    labels: TRACKING_CURVES, title: `HOTA over IoU, ${row ? row.name : "mean of all classes"}`,
    across: "IoU from which masks match, in percent", up: "percent",
    places: report.tracking.thresholds,
    mean: (value) => value, at: (value, place) => `${value} at IoU ${place.toFixed(2)}`,
  });
}

/** Curves of shares over places in 0..1, with a legend that tells their means, or the values under the pointer. */
function lineChart(id, curves, { labels, title, across, up, places, mean, at }) {
  const width = 560, height = 330, left = 46, right = 14, top = 10, bottom = 42;
  const x = (place) => left + place * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const means = curves.map((curve) => percent(curve.reduce((sum, p) => sum + p, 0) / curve.length));
  const chart = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", width: "100%",
    "aria-label": `${title}: ` + labels.map((label, i) => `${label} ${means[i] ?? "–"}`).join(", "),
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
    svg("text", { class: "quiet-text", x: x(0.5), y: height - 6, "text-anchor": "middle" }, across),
    svg("text", { class: "quiet-text", transform: `translate(13 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, up),
  );
  curves.forEach((curve, i) => {
    const points = curve.map((share, n) => `${x(places[n]).toFixed(1)},${y(share).toFixed(1)}`);
    chart.append(svg("polyline", {
      points: points.join(" "), fill: "none", stroke: `var(--series-${i})`, "stroke-width": 2.2,
      "stroke-dasharray": DASHES[i], "stroke-linejoin": "round",
    }));
  });
  const marker = svg("line", { class: "axis", y1: y(0), y2: y(1), visibility: "hidden" });
  chart.append(marker);

  const legend = element("div", { class: "legend" });
  const values = labels.map((label, i) => {
    const value = element("span", {}, means[i] === undefined ? "" : mean(means[i]));
    const line = svg("svg", { width: 26, height: 8, "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: `var(--series-${i})`, "stroke-width": 2.5, "stroke-dasharray": DASHES[i] }));
    legend.append(element("span", {}, line, ` ${label} `, value));
    return value;
  });
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const share = ((event.clientX - box.left) * width / box.width - left) / (width - left - right);
    let nearest = 0;
    places.forEach((place, n) => { if (Math.abs(place - share) < Math.abs(places[nearest] - share)) nearest = n; });
    marker.setAttribute("x1", x(places[nearest]));
    marker.setAttribute("x2", x(places[nearest]));
    marker.setAttribute("visibility", "visible");
    curves.forEach((curve, i) => { values[i].textContent = at(percent(curve[nearest]), places[nearest]); });
  });
  chart.addEventListener("pointerleave", () => {
    marker.setAttribute("visibility", "hidden");
    curves.forEach((_, i) => { values[i].textContent = mean(means[i]); });
  });
  document.getElementById(id).replaceChildren(legend, chart);
}
