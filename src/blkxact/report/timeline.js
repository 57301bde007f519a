// The canvas: draws what is seen, and finds what is under the pointer.

const AXIS = 26;
const view = { start: 0, end: 0, all: true };
const canvas = document.getElementById("canvas");
const lanes = document.getElementById("lanes");
const overview = document.getElementById("overview");
const pen = canvas.getContext("2d");
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
// Where what is known of the run begins: a live page may have dropped what was before.
const beginning = () => (dropped ? events[1][TIME] : 0);
const margin = () => (end - beginning()) * 0.01;
let palette = {};
let width = 0;
let gutter = 150;
let selected = -1;
let drawing = false;

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["panel", "page", "text", "muted", "line", "hover", "accent", "failed", "good", "frozen", "waiting", "reclaimed", "off", "event"]) {
    palette[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

const toX = (time) => gutter + (time - view.start) * (width - gutter - 8) / (view.end - view.start);
const toTime = (x) => view.start + (x - gutter) * (view.end - view.start) / (width - gutter - 8);

function show(start, stop) { // keeps within the run, with a margin, and at least 20 µs long
  const [least, most] = [beginning() - margin(), end + margin()];
  const length = Math.min(Math.max(stop - start, 20), most - least);
  view.start = Math.min(Math.max(start, least), Math.max(most - length, least));
  view.end = view.start + length;
  view.all = length >= (most - least) * 0.999;
  redraw();
}
const showAll = () => show(beginning() - margin(), end + margin());
function zoom(factor, at = (view.start + view.end) / 2) {
  show(at - (at - view.start) * factor, at + (view.end - at) * factor);
}
function reveal(time) {
  const length = view.end - view.start;
  if (time < view.start || time > view.end) show(time - length / 2, time + length / 2);
}

function fit(target, height) {
  const scale = window.devicePixelRatio || 1;
  const wide = target.clientWidth;
  if (target.width !== Math.round(wide * scale) || target.height !== Math.round(height * scale)) {
    target.width = Math.round(wide * scale);
    target.height = Math.round(height * scale);
  }
  const context = target.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, wide, height);
  return wide;
}

function redraw() {
  if (!drawing) { drawing = true; requestAnimationFrame(draw); }
}

function draw() {
  drawing = false;
  const total = AXIS + lanesHeight + 6;
  document.getElementById("lanes-size").style.height = `${total}px`;
  const height = Math.min(total, lanes.clientHeight || total);
  canvas.style.height = `${height}px`;
  width = fit(canvas, height);
  gutter = width < 620 ? 96 : 150;
  pen.font = FONT;
  pen.textBaseline = "middle";
  const top = lanes.scrollTop;
  drawGrid(height);
  for (let number = 0; number < rows.length; number++) {
    const y = AXIS + tops[number] - top;
    if (y + rows[number].height < AXIS || y > height) continue;
    drawRow(rows[number], y);
  }
  drawSelection(height);
  drawAxis();
  drawOverview();
}

// Calls `paint(item, x1, x2)` for what is seen of a sorted list; of several within a pixel, once.
function eachSeen(list, startOf, endOf, paint) {
  let number = lowerBound(list, view.start, startOf);
  while (number > 0 && endOf(list[number - 1]) >= view.start) number -= 1;
  while (number < list.length && startOf(list[number]) <= view.end) {
    const [x1, x2] = [toX(startOf(list[number])), toX(endOf(list[number]))];
    paint(list[number], Math.max(x1, gutter), Math.min(Math.max(x2, x1 + 1.5), width));
    if (x2 - x1 < 1) {
      const beyond = lowerBound(list, toTime(x1 + 1), startOf);
      const lasts = beyond - 1 > number && endOf(list[beyond - 1]) > toTime(x1 + 1); // it only begins here
      number = Math.max(number + 1, lasts ? beyond - 1 : beyond);
    } else number += 1;
  }
}
const startOf = (one) => one.start;
const endOf = (one) => one.end;
const timeOf = (index) => events[index][TIME];

function drawRow(row, y) {
  pen.globalAlpha = 1;
  pen.fillStyle = palette.line;
  pen.fillRect(0, Math.round(y) - 0.5, width, row.group ? 1 : 0.5);
  const tall = row.height === 36 ? 20 : row.height - 8;
  const where = y + 4;
  pen.save();
  pen.beginPath();
  pen.rect(gutter, y, width - gutter, row.height);
  pen.clip();
  if (row.under) eachSeen(row.under, startOf, endOf, (one, x1, x2) => box(one, x1, x2, where, tall, "off", 0.1));
  eachSeen(row.spans, startOf, endOf, (one, x1, x2) => drawSpan(one, x1, x2, where, tall));
  eachSeen(row.failedSpans, startOf, endOf, (one, x1, x2) => drawSpan(one, x1, x2, where, tall));
  const mark = row.mark === "event" ? y + 30 : y + row.height / 2;
  if (row.points !== row.failedPoints) eachSeen(row.points, timeOf, timeOf, (index, x) => drawPoint(row.mark, x, mark, false));
  eachSeen(row.failedPoints, timeOf, timeOf, (index, x) => drawPoint(row.mark, x, mark, true));
  pen.restore();
  pen.fillStyle = row.mark === "failure" && failures.length ? palette.failed : palette.text;
  if (row.muted) pen.fillStyle = palette.muted;
  pen.fillText(shorten(row.label, gutter - (row.muted ? 30 : 20)), row.muted ? 24 : 14, y + row.height / 2);
}

function box(one, x1, x2, y, height, colour, strength) {
  pen.fillStyle = palette[colour];
  pen.globalAlpha = x2 - x1 < 4 ? Math.max(strength, 0.75) : strength;
  pen.fillRect(x1, y, x2 - x1, height);
  pen.globalAlpha = 1;
}

function drawSpan(one, x1, x2, y, height) {
  if (one.parts && x2 - x1 > 6) {
    eachSeen(one.parts, startOf, endOf, (part, from, to) => part.colour && box(part, from, to, y, height, part.colour, 0.28));
    drawProgress(one, y, height);
  } else {
    box(one, x1, x2, y, height, one.colour, 0.28);
  }
  if (x2 - x1 < 4) { if (!isRelated(one)) return; } else {
    pen.fillStyle = palette[one.colour];
    pen.fillRect(x1, y, 2, height);
  }
  if (isRelated(one)) {
    pen.strokeStyle = palette.accent;
    pen.lineWidth = 1.5;
    pen.strokeRect(x1 + 0.5, y + 0.5, x2 - x1 - 1, height - 1);
  }
  if (x2 - x1 > 34) {
    pen.fillStyle = palette.text;
    pen.fillText(shorten(one.label, x2 - x1 - 12), x1 + 7, y + height / 2 + 0.5);
  }
}

function isRelated(one) {
  return selected >= 0 && (one.index === selected || replyOf.get(one.index) === selected || keysOf[selected].includes(one.key));
}

function drawProgress(one, y, height) { // a bar at the foot, as wide as the time and as high as the share
  let [last, share] = [toX(one.start), 0];
  pen.fillStyle = palette[one.colour];
  pen.globalAlpha = 0.35;
  for (const step of [...one.progress, { time: one.end, share: null }]) {
    const x = toX(step.time);
    if (share && x > gutter && last < width) pen.fillRect(last, y + height * (1 - share), x - last, height * share);
    if (step.share !== null) [last, share] = [x, step.share];
  }
  pen.globalAlpha = 1;
}

function drawPoint(mark, x, y, bad) {
  pen.fillStyle = bad ? palette.failed : palette.event;
  const half = mark === "failure" ? 6 : bad ? 5 : 3;
  if (mark === "step" && !bad) { pen.fillRect(x - 0.5, y + 6, 1, 4); return; }
  pen.beginPath();
  pen.moveTo(x, y - half); pen.lineTo(x + half, y); pen.lineTo(x, y + half); pen.lineTo(x - half, y);
  pen.fill();
}

function shorten(text, space) {
  if (pen.measureText(text).width <= space) return text;
  let length = Math.max(1, Math.floor(space / 7));
  while (length > 1 && pen.measureText(`${text.slice(0, length)}…`).width > space) length -= 1;
  return length > 1 ? `${text.slice(0, length)}…` : "";
}

function ticks() { // the times that the axis names: some 110 pixels apart
  const about = (view.end - view.start) * 110 / Math.max(width - gutter, 1);
  const power = 10 ** Math.floor(Math.log10(about));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= about);
  const times = [];
  for (let time = Math.ceil(view.start / step) * step; time <= view.end; time += step) times.push(time);
  return times;
}

function drawGrid(height) {
  pen.fillStyle = palette.panel;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = palette.line;
  pen.globalAlpha = 0.6;
  for (const time of ticks()) if (toX(time) >= gutter) pen.fillRect(Math.round(toX(time)), AXIS, 1, height);
  pen.globalAlpha = 1;
  pen.fillRect(gutter - 1, 0, 1, height);
  pen.fillStyle = palette.reclaimed;
  for (const time of begins.slice(1)) if (toX(time) >= gutter) pen.fillRect(Math.round(toX(time)), AXIS, 2, height);
}

function drawAxis() {
  pen.fillStyle = palette.panel;
  pen.fillRect(0, 0, width, AXIS);
  pen.fillStyle = palette.line;
  pen.fillRect(0, AXIS - 1, width, 1);
  pen.fillStyle = palette.muted;
  for (const time of ticks()) {
    const x = toX(time);
    const text = Math.abs(time) < 1 ? "0" : span(time);
    if (x >= gutter && x + pen.measureText(text).width + 5 < width) pen.fillText(text, x + 4, AXIS / 2);
  }
}

function drawSelection(height) {
  if (selected < 0) return;
  const x = toX(timeOf(selected));
  if (x < gutter) return;
  pen.fillStyle = palette.accent;
  pen.fillRect(Math.round(x) - 0.5, AXIS, 1, height);
}

// The overview: how much happens when, failures, and what the timeline shows.
let density = { wide: 0 };
function drawOverview() {
  const height = 34;
  const wide = fit(overview, height);
  const context = overview.getContext("2d");
  const columns = Math.max(1, Math.floor(wide / 3));
  const from = beginning();
  const column = (time) => Math.min(columns - 1, Math.max(0, Math.floor((time - from) * columns / (end - from))));
  if (density.wide !== wide || density.count !== events.length) {
    density = { wide, count: events.length, counts: new Array(columns).fill(0), failed: new Set(failures.map((index) => column(timeOf(index)))) };
    for (const event of events) density.counts[column(event[TIME])] += 1;
    density.most = density.counts.reduce((a, b) => Math.max(a, b), 1);
  }
  context.fillStyle = palette.event;
  density.counts.forEach((count, number) => {
    const high = count ? Math.max(2, (height - 8) * Math.sqrt(count / density.most)) : 0;
    context.fillRect(number * 3, height - high, 2, high);
  });
  context.fillStyle = palette.failed;
  density.failed.forEach((number) => context.fillRect(number * 3 - 1, 0, 4, 9));
  const [x1, x2] = [view.start, view.end].map((time) => Math.min(Math.max((time - from) / (end - from), 0), 1) * wide);
  context.fillStyle = palette.accent;
  context.globalAlpha = 0.14;
  context.fillRect(x1, 0, Math.max(x2 - x1, 2), height);
  context.globalAlpha = 1;
  context.fillRect(x1, 0, 2, height);
  context.fillRect(Math.max(x2 - 2, x1), 0, 2, height);
}

// What is at a place of the canvas: the index of an event, or -1. Failures come first.
function eventAt(x, y) {
  const below = y - AXIS + lanes.scrollTop;
  const number = tops.findLastIndex((top) => top <= below);
  if (y < AXIS || number < 0 || x < gutter) return -1;
  const row = rows[number];
  const near = (list, of) => {
    const first = lowerBound(list, toTime(x - 6), of);
    let best = null;
    for (let at = first; at < list.length && of(list[at]) <= toTime(x + 6) && at < first + 1000; at++) {
      if (best === null || Math.abs(toX(of(list[at])) - x) < Math.abs(toX(of(best)) - x)) best = list[at];
    }
    return best;
  };
  const inEvents = row.mark !== "event" || below - tops[number] > 24;
  const point = near(row.failedPoints, timeOf) ?? (inEvents && row.mark !== "step" ? near(row.points, timeOf) : null);
  if (point !== null) return point;
  const bad = near(row.failedSpans, startOf);
  if (bad) return bad.index;
  let found = -1;
  for (const list of [row.under || [], row.spans]) {
    const at = lowerBound(list, toTime(x) + 1, startOf) - 1;
    if (at >= 0 && toX(list[at].end) >= x - 4) found = partAt(list[at], x);
  }
  return found;
}
function partAt(one, x) {
  const part = one.parts && one.parts.find((each) => toX(each.start) <= x && x <= toX(each.end));
  return part ? part.index : one.index;
}
