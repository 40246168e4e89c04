"use strict";

const VIEW_KEYS = { g: "truth", p: "results", b: "both", n: "none" };
let isSettled = false;

/** The address names the video, the frame and the view, so that it can be kept and sent. */
function rememberPlace() {
  if (!isSettled || state.position < 0) return;
  const video = loadVideo(state.position);
  const frame = video ? video.shown[state.frame] : 0;
  history.replaceState(null, "", `#video=${report.videos[state.position].id}&frame=${frame}&view=${state.view}`);
}

function goToAddress() {
  const place = new URLSearchParams(location.hash.slice(1));
  const position = report.videos.findIndex((row) => String(row.id) === place.get("video"));
  if (position < 0) return false;
  if (["truth", "results", "both", "none"].includes(place.get("view"))) selectView(place.get("view"));
  const video = loadVideo(position);
  const frame = video ? video.shown.indexOf(Number(place.get("frame"))) : 0;
  selectVideo(position, Math.max(0, frame));
  return true;
}

function stepVideo(step) {
  const place = list.positions.indexOf(state.position);
  const next = list.positions[Math.max(0, Math.min(list.positions.length - 1, place + step))];
  if (next !== undefined && next !== state.position) selectVideo(next);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select, textarea");
  if (field && field.id !== "frame") return;
  const actions = {
    ArrowLeft: () => selectFrame(state.frame - 1),
    ArrowRight: () => selectFrame(state.frame + 1),
    ArrowUp: () => stepVideo(-1),
    ArrowDown: () => stepVideo(1),
    Home: () => selectFrame(0),
    End: () => selectFrame(Infinity),
    t: () => selectView(state.view === "truth" ? "results" : "truth"),
  };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === " ") {
    if (event.target.closest("button, a")) return; // space presses what has the focus
    togglePlay();
  } else if (VIEW_KEYS[key]) selectView(VIEW_KEYS[key]);
  else if (actions[key] && (key === "t" || isVideoInSight())) actions[key]();
  else return;
  event.preventDefault();
}

/** Arrows scroll the page as ever while the videos are out of sight. */
function isVideoInSight() {
  const box = document.getElementById("stage").getBoundingClientRect();
  return box.top < window.innerHeight - 60 && box.bottom > 60;
}

function setUpTheme() {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
}

function setUp() {
  setUpTheme();
  setUpClassTable();
  setUpVideoList();
  const chooser = document.getElementById("curve-class");
  chooser.addEventListener("change", () => drawCurves(chooser.value));
  drawCurves("");
  const tracked = document.getElementById("tracking-class");
  tracked.addEventListener("change", () => drawTracking(tracked.value));
  drawTracking("");
  document.getElementById("score").addEventListener("input", (event) => {
    state.score = Number(event.target.value);
    updateFailureCounts();
    updateVideoList();
    showTracks();
    paint();
  });
  document.getElementById("kinds").addEventListener("click", (event) => {
    const button = event.target.closest("[data-show]");
    if (!button) return;
    document.getElementById("kind-filter").value = button.dataset.show;
    updateVideoList();
    if (list.positions.length && !list.positions.includes(state.position)) selectVideo(list.positions[0]);
    document.getElementById("videos").scrollIntoView();
  });
  document.getElementById("frame").addEventListener("input", (event) => selectFrame(Number(event.target.value)));
  document.getElementById("play").addEventListener("click", togglePlay);
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => selectView(button.dataset.view));
  }
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", paint);
  window.addEventListener("hashchange", goToAddress);
  updateFailureCounts();
  updateVideoList();
  selectView("both");
  const isLinked = goToAddress();
  if (!isLinked && list.positions.length) selectVideo(list.positions.find((p) => report.videos[p].shown) ?? list.positions[0]);
  isSettled = true;
  if (isLinked) document.getElementById("videos").scrollIntoView({ behavior: "instant" });
  document.body.dataset.ready = "true";
}

setUp();
