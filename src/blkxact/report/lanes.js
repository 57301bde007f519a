// The rows of the timeline. A row has spans and points, sorted by time; a span is {start, end,
// index, label, colour, failed, key, parts}, a point is the index of an event. Things of a row
// follow each other without overlap, so what belongs to them is sorted when it is put together.

const COLOURS = {
  created: "off", running: "accent", paused: "waiting", standby: "waiting", ready: "good", waiting: "waiting",
  pending: "waiting", aborting: "failed", concluded: "good", completed: "good", cancelled: "off", failed: "failed",
  recording: "accent", disabled: "off", frozen: "frozen", abdicated: "good", reclaimed: "reclaimed",
  inconsistent: "failed", removed: null, null: null, undefined: null,
};
const LEGEND = [
  ["accent", "running, recording"], ["waiting", "waiting, paused"], ["frozen", "frozen"],
  ["good", "completed, abdicated"], ["reclaimed", "reclaimed"], ["failed", "failed, inconsistent"],
  ["off", "created, cancelled, disabled"],
];

// Puts things that last into as few rows as possible, without overlaps.
function packed(list) {
  const rows = [];
  for (const thing of list) {
    let row = rows.find((one) => one.end <= thing.start);
    if (!row) rows.push(row = { things: [], end: 0 });
    row.things.push(thing);
    row.end = thing.ended || thing.cut ? thing.end : Infinity;
  }
  return rows.map((row) => row.things);
}

const spanOfJob = new WeakMap(); // of those that are over
function jobSpan(job) {
  if (spanOfJob.has(job)) return spanOfJob.get(job);
  const last = job.states[job.states.length - 1];
  const parts = job.states.map((one) => ({ ...one, colour: COLOURS[one.state] }));
  for (const part of parts) {
    if (part.state === "concluded" && job.outcome) part.colour = COLOURS[job.outcome];
    if (part.state === "aborting" && job.outcome === "cancelled") part.colour = "off";
  }
  const colour = COLOURS[job.outcome] || (last && COLOURS[last.state]) || "accent";
  const made = { ...job, label: `${job.label}${job.type ? `, ${job.type}` : ""}`, colour, parts };
  if (job.ended) spanOfJob.set(job, made);
  return made;
}

const byName = new Intl.Collator("en", { numeric: true }).compare;
const coloured = (thing, colour) => Object.assign(thing, { colour });

let rows = [];
let tops = []; // of the rows, in pixels below the axis
let lanesHeight = 0;

function layOut() {
  rows = makeRows();
  tops = [];
  lanesHeight = 0;
  for (const row of rows) { tops.push(lanesHeight); lanesHeight += row.height; }
}

function makeRows() {
  const made = [{ label: `Failed (${failures.length})`, group: true, height: 28, spans: [], points: failures, mark: "failure" }];
  const add = (title, list, make) => list.forEach((one, number) => {
    made.push({ height: 26, spans: [], points: [], group: number === 0, ...make(one, number === 0 ? title : "") });
  });
  add("Clients", packed(things.clients), (list, title) => {
    const commands = list.flatMap((client) => client.commands);
    return {
      label: list.length === 1 ? list[0].label : title || `${list.length} clients`, height: 36, spans: commands, under: list,
      points: list.flatMap((client) => client.events), mark: "event",
    };
  });
  add("NBD clients", packed(things.nbd), (list, title) => ({
    label: list.length === 1 ? list[0].label : title || `${list.length} NBD clients`, under: list,
    spans: list.flatMap((client) => client.activity), mark: "step",
  }));
  add("Transactions", packed(things.transactions), (list, title) => ({
    label: title,
    spans: list.map((one) => coloured(one, one.failed ? "failed" : one.ended ? "good" : "accent")),
    points: list.flatMap((one) => members.get(one.key) || []).sort((a, b) => a - b), mark: "step",
  }));
  add("Jobs", packed(things.jobs), (list, title) => ({ label: title, spans: list.map(jobSpan), mark: "step" }));
  if (things.bitmaps.length) made.push({ label: "Bitmaps", group: true, height: 22, spans: [], points: [] });
  const bitmaps = new Map(); // label -> all states, of all runs
  for (const { label, states } of things.bitmaps) bitmaps.set(label, [...(bitmaps.get(label) || []), ...states]);
  add("", [...bitmaps].sort(([a], [b]) => byName(a, b)), ([label, states]) => ({
    label, muted: true, group: false,
    spans: states.filter((one) => COLOURS[one.state]).map((one) => coloured(one, COLOURS[one.state])),
    points: (members.get(`bitmap ${label}`) || []), mark: "step",
  }));
  for (const row of made) row.failedSpans = row.spans.filter((one) => one.failed);
  for (const row of made) row.failedPoints = row.points === failures ? failures : row.points.filter((one) => failed.has(one));
  return made;
}
