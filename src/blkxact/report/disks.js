// Each disk as a map: what was dirty, what each job copied, where a restore differs.

const MOST_MAPS = 400; // of one disk
const disks = document.getElementById("disks");
const DISK_LEGEND = [["accent", "dirty"], ["good", "copied by a job"], ["reclaimed", "copied by a job that failed or was cancelled"], ["failed", "restore differs"]];
const ON_DISKS = new Set(["BitmapChanged", "RestoreDiffers", "JobStarted", "JobProgress", "JobEnded"]);
let maps = []; // {canvas, ranges, size, colour, index, row}
let mapOf = new Map(); // what it shows -> one of these; canvas -> one

function disksOf() { // name -> {size, maps}
  const found = new Map();
  const disk = (name, size) => {
    if (!found.has(name)) found.set(name, { size: 0, maps: [], lastState: new Map() });
    const one = found.get(name);
    one.size = Math.max(one.size, size);
    return one;
  };
  events.forEach(([, kind, , data], index) => {
    if (kind === "BitmapChanged" && data.size) {
      const one = disk(data.node, data.size);
      const map = { index, what: `dirty: ${data.bitmap}, ${data.state}`, ranges: data.ranges, amount: data.count, colour: "accent" };
      if (data.state === "frozen" || data.state === "inconsistent") one.maps.push(map);
      one.lastState.set(data.bitmap, map);
    } else if (kind === "RestoreDiffers") {
      disk(data.node, data.size).maps.push({ index, what: "restore differs", ranges: data.ranges, amount: total(data.ranges), colour: "failed" });
    }
  });
  for (const job of things.jobs) {
    if (!job.source || !job.size) continue;
    const done = job.outcome === "completed" || job.outcome === undefined;
    const outcome = job.outcome === undefined ? "running" : job.outcome;
    const ranges = united(job.parts);
    disk(job.source, job.size).maps.push({
      index: job.started, what: `${job.label}: ${outcome}`, ranges, amount: total(ranges),
      colour: done ? "good" : "reclaimed", failed: job.failed,
    });
  }
  for (const one of found.values()) {
    for (const map of one.lastState.values()) if (!one.maps.includes(map)) one.maps.push({ ...map, what: `${map.what} (last)` });
    one.maps.sort((a, b) => a.index - b.index);
  }
  return found;
}
// A job may write a grain twice: that counts once.
function united(ranges) {
  const made = [];
  for (const [offset, length] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const last = made[made.length - 1];
    if (last && offset <= last[0] + last[1]) last[1] = Math.max(last[1], offset + length - last[0]);
    else made.push([offset, length]);
  }
  return made;
}
const total = (ranges) => ranges.reduce((sum, [, length]) => sum + length, 0);

function forgetMaps() {
  watcher.disconnect();
  [maps, mapOf] = [[], new Map()];
}

function makeDisks() {
  const focused = maps.find((map) => map.row === document.activeElement);
  const before = mapOf;
  [maps, mapOf] = [[], new Map()];
  const found = disksOf();
  const made = [];
  if (!found.size) made.push(element("p", "No job copied a disk and no bitmap was changed.", "empty"));
  for (const [name, { size: bytes, maps: all }] of [...found].sort(([a], [b]) => byName(a, b))) {
    const disk = element("div", undefined, "disk");
    const title = element("h3", name);
    title.append(element("small", size(bytes)));
    disk.append(title);
    if (all.length > MOST_MAPS) disk.append(element("p", `The last ${MOST_MAPS} maps; the list of events has ${all.length - MOST_MAPS} more.`, "empty"));
    for (const map of all.slice(-MOST_MAPS)) disk.append(makeMap(map, bytes, name, before));
    const axis = element("div", undefined, "axis");
    axis.setAttribute("aria-hidden", "true");
    for (const part of [0, 0.25, 0.5, 0.75, 1]) axis.append(element("span", part ? size(bytes * part) : "0"));
    disk.append(axis);
    made.push(disk);
  }
  disks.replaceChildren(...made);
  for (const map of before.values()) if (!mapOf.has(map.canvas)) watcher.unobserve(map.canvas);
  if (focused) maps.find((map) => map.index === focused.index)?.row.focus({ preventScroll: true });
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const map = mapOf.get(entry.target);
    if (!map) continue;
    map.seen = entry.isIntersecting;
    if (map.seen) drawMap(map);
  }
}, { rootMargin: "200px" });

// Returns the row of a map; one that shows the same is taken from those of before.
function makeMap(map, bytes, disk, before) {
  const shows = [disk, bytes, map.index, map.what, map.amount, map.ranges.length].join(" ");
  const same = before.get(shows);
  const kept = same ? Object.assign(same, { ranges: map.ranges, colour: map.colour }) : addRow(map, bytes, disk);
  maps.push(kept);
  mapOf.set(shows, kept).set(kept.canvas, kept);
  return kept.row;
}

function addRow(map, bytes, disk) {
  const row = element("button", undefined, map.failed || map.colour === "failed" ? "map failed" : "map");
  row.type = "button";
  const what = element("span", undefined, "what");
  what.append(element("time", `${seconds(timeOf(map.index)).replace(/\d{3}$/, "")}`), map.what);
  const drawn = element("canvas");
  row.append(what, drawn, element("span", size(map.amount), "amount"));
  row.title = map.what;
  row.setAttribute("aria-label", `${disk}, ${map.what}: ${size(map.amount)} in ${map.ranges.length} ranges`);
  row.onclick = () => select(map.index);
  drawn.onmousemove = (event) => tellOffset(event, map, bytes);
  drawn.onmouseleave = () => tip("");
  watcher.observe(drawn);
  return Object.assign(map, { row, canvas: drawn, bytes });
}

function drawMap(map) {
  const wide = fit(map.canvas, 16);
  const context = map.canvas.getContext("2d");
  context.fillStyle = palette.off;
  context.globalAlpha = 0.16;
  context.fillRect(0, 0, wide, 16);
  context.globalAlpha = 1;
  context.fillStyle = palette[map.colour];
  for (const [offset, length] of map.ranges) {
    context.fillRect(offset * wide / map.bytes, 0, Math.max(length * wide / map.bytes, 1.5), 16);
  }
}
const drawMaps = () => maps.filter((map) => map.seen).forEach(drawMap);

function tellOffset(event, map, bytes) {
  const area = map.canvas.getBoundingClientRect();
  const offset = Math.max(0, Math.floor((event.clientX - area.left) * bytes / area.width));
  const near = 2 * bytes / area.width;
  const range = map.ranges.find(([from, length]) => from - near <= offset && offset <= from + length + near);
  const text = range ? `${size(range[1])} at ${size(range[0])} (${range[0]} + ${range[1]})` : `nothing at ${size(offset)}`;
  tip(text, event);
}
