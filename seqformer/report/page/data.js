"use strict";

const report = JSON.parse(document.getElementById("report-data").textContent);
const categoryNames = new Map(report.classes.map((row) => [row.id, row.name]));
const kindNames = new Map(report.errors.kinds.map((row) => [row.kind, row.name]));
const state = { score: report.minScore, position: -1, frame: 0, view: "both", isolated: null };

const percent = (value) => (value < 0 ? "–" : (100 * value).toFixed(1));

/** An element with attributes and children (elements or text). */
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** The same for SVG. */
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const loadedVideos = new Map();

/** Tracks and frames of a video by its position in the list; null where the page has none. */
function loadVideo(position) {
  if (!loadedVideos.has(position)) {
    const source = document.getElementById(`video-${position}`);
    loadedVideos.set(position, source ? JSON.parse(source.textContent) : null);
  }
  return loadedVideos.get(position);
}

/** Run lengths from COCO's text: five bits a character, from the fourth number on differences. */
function readRuns(text) {
  const runs = [];
  for (let i = 0; i < text.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(i++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** One byte per pixel of the grid, row by row, from column-major runs. */
function readMask(text, height, width) {
  const mask = new Uint8Array(height * width);
  let place = 0, isInside = 0;
  for (const run of readRuns(text)) {
    if (isInside) {
      for (let i = place; i < place + run; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
    }
    place += run;
    isInside = 1 - isInside;
  }
  return mask;
}

/** How many failures of each kind a video has among results from a score on. */
function countFailures(row, score) {
  const counts = {};
  for (const [resultScore, kind] of row.results) {
    if (resultScore >= score) counts[kind] = (counts[kind] || 0) + 1;
  }
  const missed = row.instances.filter(([found, covered]) => isMissed(found, covered, score)).length;
  if (missed) counts.missed = missed;
  return counts;
}

function isMissed(found, covered, score) {
  return !(found !== null && found >= score) && !(covered !== null && covered >= score);
}
