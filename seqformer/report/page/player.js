"use strict";

// Okabe & Ito, then Tol's muted scheme: distinct for colour-blind readers.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#882255", "#44aa99", "#332288", "#999933", "#ddcc77"];
const LONER = "#e8e8e8";
const FRAMES_PER_SECOND = 6;
const VIEW_LEGENDS = {
  truth: "Ground truth, one colour per instance.",
  results: "Prediction, in the colour of the instance that a result is about; light grey if none.",
  both: "White outline: ground truth. Coloured: prediction, in the colour of the instance that it is about.",
  none: "The frame alone.",
};
const MAX_STAGE_HEIGHT = 470;

const canvas = document.getElementById("canvas");
const pictures = new Map();
let timer = null;

/** The colour of an instance; results about an instance share it, the others are light grey. */
const colourOf = (instance) => (instance === null ? LONER : COLOURS[instance % COLOURS.length]);

/** The tracks that are drawn now: [{kind, colour, masks, label, isOutline}]. */
function drawnTracks(video) {
  const tracks = [];
  const add = (side, index, entry, instance, label, isOutline) => {
    const id = `${side}${index}`;
    if (state.isolated && state.isolated !== id) return;
    tracks.push({ id, colour: colourOf(instance), masks: video.masks[entry.masks], label, isOutline });
  };
  if (state.view === "results" || state.view === "both") {
    video.results.forEach((entry, i) => {
      if (entry.score >= state.score) {
        add("r", i, entry, entry.instance, `${categoryNames.get(entry.category)} ${entry.score.toFixed(2)}`, false);
      }
    });
    tracks.reverse(); // the best on top
  }
  if (state.view === "truth" || state.view === "both") {
    video.truth.forEach((entry, i) => add("t", i, entry, i, categoryNames.get(entry.category), state.view === "both"));
  }
  return tracks;
}

/** Paint the frame and its masks at the resolution of the screen. */
function paint() {
  const video = state.position >= 0 ? loadVideo(state.position) : null;
  const note = document.getElementById("no-frame");
  canvas.hidden = !video;
  note.hidden = false;
  if (!video) {
    note.textContent = "This page has no frames and masks of this video: only of the worst, and of some others.";
    return;
  }
  const [height, width] = video.size;
  const room = document.getElementById("stage").clientWidth;
  const zoom = Math.min(room / width, MAX_STAGE_HEIGHT / height);
  const density = window.devicePixelRatio || 1;
  canvas.style.width = `${width * zoom}px`;
  canvas.style.height = `${height * zoom}px`;
  canvas.width = Math.round(width * zoom * density);
  canvas.height = Math.round(height * zoom * density);
  const context = canvas.getContext("2d");
  const source = video.frames ? video.frames[state.frame] : null;
  note.textContent = video.frames && !source ? "This frame could not be read." : "";
  note.hidden = !note.textContent;
  context.fillStyle = "#39424c";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (source) {
    const picture = pictureOf(source);
    if (!picture.complete) return; // it paints again once it is decoded
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  }
  const [rows, columns] = video.grid;
  const tracks = drawnTracks(video).filter((track) => track.masks[state.frame]);
  const labels = [];
  for (const track of tracks) {
    const mask = readMask(track.masks[state.frame], rows, columns);
    paintMask(context, mask, rows, columns, track, density, labels);
  }
  paintLabels(context, labels, density);
  canvas.setAttribute("aria-label", `Frame ${video.shown[state.frame] + 1} with ${tracks.length} masks: ${tracks.map((t) => t.label).join(", ")}`);
  document.body.dataset.painted = `${state.position}/${state.frame}/${state.view}/${tracks.length}`;
}

function pictureOf(source) {
  if (!pictures.has(source)) {
    const picture = new Image();
    picture.addEventListener("load", () => {
      const video = state.position >= 0 ? loadVideo(state.position) : null;
      if (video && video.frames && video.frames[state.frame] === source) paint();
    });
    picture.src = source;
    pictures.set(source, picture);
  }
  return pictures.get(source);
}

const layer = document.createElement("canvas");

/** A translucent fill (only a dashed outline for ground truth under results), outline and label. */
function paintMask(context, mask, rows, columns, track, density, labels) {
  const across = context.canvas.width / columns, down = context.canvas.height / rows;
  const red = parseInt(track.colour.slice(1, 3), 16), green = parseInt(track.colour.slice(3, 5), 16), blue = parseInt(track.colour.slice(5, 7), 16);
  let sumX = 0, highest = -1;
  const outline = new Path2D();
  layer.width = columns;
  layer.height = rows;
  const paper = layer.getContext("2d");
  const image = paper.createImageData(columns, rows);
  for (let y = 0, i = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, i++) {
      if (!mask[i]) continue;
      if (highest < 0) highest = y;
      if (y === highest) sumX = x;
      image.data.set([red, green, blue, 115], 4 * i);
      if (!y || !mask[i - columns]) { outline.moveTo(x * across, y * down); outline.lineTo((x + 1) * across, y * down); }
      if (y === rows - 1 || !mask[i + columns]) { outline.moveTo(x * across, (y + 1) * down); outline.lineTo((x + 1) * across, (y + 1) * down); }
      if (!x || !mask[i - 1]) { outline.moveTo(x * across, y * down); outline.lineTo(x * across, (y + 1) * down); }
      if (x === columns - 1 || !mask[i + 1]) { outline.moveTo((x + 1) * across, y * down); outline.lineTo((x + 1) * across, (y + 1) * down); }
    }
  }
  if (highest < 0) return;
  if (!track.isOutline) {
    paper.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
    context.imageSmoothingEnabled = true;
  }
  context.lineWidth = (track.isOutline ? 3.5 : 3) * density;
  context.strokeStyle = "rgba(0, 0, 0, .55)";
  context.stroke(outline);
  context.lineWidth = 1.6 * density;
  context.strokeStyle = track.isOutline ? "#ffffff" : track.colour;
  context.stroke(outline);
  if (!track.isOutline) labels.push({ track, x: sumX * across, y: highest * down });
}

/** Labels above their masks, moved down where they would cover one another. */
function paintLabels(context, labels, density) {
  const placed = [];
  for (const { track, x, y } of labels.reverse()) paintLabel(context, track, x, y, density, placed);
}

function paintLabel(context, track, x, y, density, placed) {
  context.font = `600 ${12 * density}px system-ui, sans-serif`;
  const width = context.measureText(track.label).width + 8 * density, height = 17 * density;
  x = Math.max(0, Math.min(x - width / 2, context.canvas.width - width));
  y = Math.max(0, y - height);
  const isCovered = () => placed.some((other) => x < other.x + other.width && other.x < x + width && Math.abs(y - other.y) < height);
  while (isCovered()) y += height + density;
  placed.push({ x, y, width });
  context.fillStyle = "rgba(15, 18, 22, .78)";
  context.fillRect(x, y, width, height);
  context.fillStyle = track.colour;
  context.fillRect(x, y, 3 * density, height);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(track.label, x + 6 * density, y + height / 2);
}

/** The line of a track below the picture: colour, class, score, what became of it, where it is. */
function trackLine(video, id, entry, instance, score, verdict, isBad, isOutline) {
  const swatch = element("span", { class: `swatch${isOutline ? " outline" : ""}`, style: `background:${colourOf(instance)};border-color:${colourOf(instance)}` });
  const masks = video.masks[entry.masks];
  const presence = svg("svg", { viewBox: `0 0 ${masks.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "presence-ground", x: 0, y: 0.3, width: masks.length, height: 0.4 }));
  masks.forEach((mask, t) => {
    if (mask) presence.append(svg("rect", { x: t, y: 0, width: 1.02, height: 1, fill: colourOf(instance) }));
  });
  const now = svg("rect", { class: "presence-now", x: 0, y: 0, width: Math.max(0.12, masks.length / 150), height: 1, "data-now": "" });
  presence.append(now);
  const line = element("button", { type: "button", class: "track", "aria-pressed": String(state.isolated === id), title: "Show this track alone" },
    swatch, element("span", {}, categoryNames.get(entry.category)), element("span", {}, score),
    element("span", { class: isBad ? "bad" : "" }, verdict), presence);
  line.addEventListener("click", () => {
    state.isolated = state.isolated === id ? null : id;
    showTracks();
    paint();
  });
  return line;
}

function showTracks() {
  const place = document.getElementById("tracks");
  const video = state.position >= 0 ? loadVideo(state.position) : null;
  if (!video) {
    place.replaceChildren();
    return;
  }
  const truth = video.truth.map((entry, i) => {
    const missed = !entry.crowd && isMissed(entry.found, entry.covered, state.score);
    const isFound = entry.found !== null && entry.found >= state.score;
    const verdict = entry.crowd ? "crowd, not scored" : missed ? "Missed" : isFound ? "found" : "only with an error";
    return trackLine(video, `t${i}`, entry, i, `IoU ${entry.iou.toFixed(2)}`, verdict, !entry.crowd && !isFound, state.view === "both");
  });
  const above = video.results.filter((entry) => entry.score >= state.score);
  const results = above.map((entry) => {
    const verdict = entry.kind === "true" ? "correct" : entry.kind === "ignored" ? "on a crowd, not scored" : kindNames.get(entry.kind);
    const isBad = entry.kind !== "true" && entry.kind !== "ignored";
    return trackLine(video, `r${video.results.indexOf(entry)}`, entry, entry.instance, `score ${entry.score.toFixed(2)}`, `${verdict}, IoU ${entry.iou.toFixed(2)}`, isBad, false);
  });
  const hidden = video.results.length - above.length + video.omitted;
  place.replaceChildren(
    element("h4", {}, `Ground truth: ${counted(truth.length, "instance")}`), ...truth,
    element("h4", {}, `Prediction: ${counted(results.length, "result")} from score ${state.score.toFixed(2)} on` + (hidden ? `, ${hidden} not shown` : "")), ...results);
  markNow();
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

function markNow() {
  for (const now of document.querySelectorAll("[data-now]")) now.setAttribute("x", state.frame);
}

function selectVideo(position, frame = 0) {
  stop();
  state.position = position;
  state.isolated = null;
  const row = report.videos[position];
  const video = loadVideo(position);
  document.getElementById("video-name").textContent = row ? `${row.name} · AP ${percent(row.ap)}` : "No video";
  const slider = document.getElementById("frame");
  slider.max = video ? video.shown.length - 1 : 0;
  slider.disabled = document.getElementById("play").disabled = !video || video.shown.length < 2;
  pictures.clear();
  if (video && video.frames) video.frames.filter(Boolean).forEach(pictureOf); // playing must not flicker
  markSelectedVideo();
  showTracks();
  selectFrame(frame);
}

function selectFrame(frame) {
  const video = state.position >= 0 ? loadVideo(state.position) : null;
  const last = video ? video.shown.length - 1 : 0;
  state.frame = Math.max(0, Math.min(last, frame));
  document.getElementById("frame").value = state.frame;
  const total = state.position >= 0 ? report.videos[state.position].frames : 0;
  document.getElementById("frame-value").textContent = video ? `frame ${video.shown[state.frame] + 1} of ${total}` : "";
  markNow();
  paint();
  rememberPlace();
}

function selectView(view) {
  state.view = view;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  document.getElementById("view-legend").textContent = VIEW_LEGENDS[view];
  showTracks();
  paint();
  rememberPlace();
}

function stop() {
  window.clearInterval(timer);
  timer = null;
  document.getElementById("play").textContent = "▶";
}

function togglePlay() {
  if (timer !== null) return stop();
  const video = state.position >= 0 ? loadVideo(state.position) : null;
  if (!video || video.shown.length < 2) return;
  document.getElementById("play").textContent = "❚❚";
  timer = window.setInterval(() => selectFrame((state.frame + 1) % video.shown.length), 1000 / FRAMES_PER_SECOND);
}
