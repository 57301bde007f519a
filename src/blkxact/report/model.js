"use strict";
// The events, and which of them belong together. An event is [time, kind, text, members]; times are
// microseconds. Events are added at the end, and each is looked at once.

const record = JSON.parse(document.getElementById("record").textContent);
const [TIME, KIND, TEXT, DATA] = [0, 1, 2, 3];
const CANCELED = -125;
const FAILED_EVENT = /ERROR|CORRUPTED|FAILURE|REPORT_BAD/;

const NAMES = {
  RecordBegan: "run", RecordFull: "record", ShuttingDown: "run", ClientConnected: "client", ClientGone: "client",
  CommandReceived: "command", CommandAnswered: "reply", EventEmitted: "event", ActionStep: "action",
  ReferenceChanged: "reference", TransactionOver: "transaction", BitmapSettled: "bitmap", BitmapChanged: "bitmap",
  JobStarted: "job", JobProgress: "progress", JobError: "job", JobEnded: "job", RequestFailed: "request",
  FaultStruck: "fault", RestoreDiffers: "restore",
  NbdClientConnected: "NBD", NbdExportOpened: "NBD", NbdRequests: "NBD", NbdClientGone: "NBD",
};

// Returns whether an event is the report of a failure.
function isFailure([, kind, , data]) {
  switch (kind) {
    case "CommandAnswered": case "ActionStep": return data.error !== null;
    case "JobEnded": return data.outcome === "failed";
    case "TransactionOver": return data.ret !== 0 && data.ret !== CANCELED;
    case "BitmapChanged": return data.state === "inconsistent";
    case "EventEmitted": return FAILED_EVENT.test(data.event) || Boolean(data.data && data.data.error);
    default: return ["JobError", "RequestFailed", "FaultStruck", "RestoreDiffers", "RecordFull"].includes(kind);
  }
}

// Things that last. A thing has {key, label, start, end, index, failed} and, by its kind, more.
let events, things, members, keysOf, failures, failed, begins, replyOf, model, end;

function clearEvents() {
  events = [];
  things = { clients: [], nbd: [], transactions: [], jobs: [], bitmaps: [] };
  members = new Map(); // key of a thing -> indexes of its events
  keysOf = []; // index of an event -> keys
  failures = [];
  failed = new Set(); // the same
  begins = []; // times at which runs begin
  replyOf = new Map(); // index of a command -> index of its reply
  end = 1000;
  model = makeModel();
}

function addEvents(more) {
  for (const event of more) {
    const index = events.push(event) - 1;
    const keys = model.keysFor(event, index);
    keysOf.push(keys);
    for (const key of keys) {
      if (!members.has(key)) members.set(key, []);
      members.get(key).push(index);
    }
    if (isFailure(event)) { failures.push(index); failed.add(index); }
  }
  if (events.length) end = Math.max(events[events.length - 1][TIME], 1000);
  model.extendOpen();
}
const lastTime = () => events[events.length - 1][TIME];

function makeModel() {
  let open = new Map(); // key -> thing that has not ended
  let commands = new Map();
  let launching = null; // the transaction whose actions run
  let emptied = null; // the transaction whose last reference went
  let run = 0;
  let transactionOf = new Map(); // key of a job -> key of its transaction

  const named = (kind, name) => `${kind} ${name}${run > 1 ? ` (run ${run})` : ""}`;

  function begin(list, key, label, index, more) {
    const thing = { key, label, start: events[index][TIME], end, index, failed: false, ended: false, ...more };
    open.set(key, thing);
    things[list].push(thing);
    return thing;
  }
  function finish(key, time) {
    const thing = open.get(key);
    if (thing) { thing.end = time; thing.ended = true; open.delete(key); }
    return thing;
  }
  function changeState(thing, state, time, index) {
    const last = thing.states[thing.states.length - 1];
    if (last && last.state === state) return;
    if (last) last.end = time;
    thing.states.push({ state, start: time, end, index, key: thing.key, label: state, failed: state === "inconsistent" });
  }
  function job(id, index) {
    const key = named("job", id);
    return open.get(key) || begin("jobs", key, id, index, { states: [], progress: [], parts: [], size: 0 });
  }
  const keysOfJob = ({ key }) => (transactionOf.has(key) ? [key, transactionOf.get(key)] : [key]);
  function transaction(data, index) { // a reference is taken: by the launch, or by a job of its own
    if (data.holder === "launch") {
      const label = data.transaction || "unnamed";
      launching = begin("transactions", named("transaction", data.transaction || `#${index}`), label, index, { holders: [] });
      return launching;
    }
    if (launching) return launching;
    const label = data.transaction || data.holder;
    return begin("transactions", named("transaction", `of ${data.holder}, #${index}`), label, index, { holders: [] });
  }
  function holding(holder) {
    for (const thing of open.values()) if (thing.holders && thing.holders.includes(holder)) return thing;
    return launching;
  }

  const handlers = {
    RecordBegan(data, time) { // what a run before has left open was cut off here
      for (const command of commands.values()) command.end = time;
      for (const thing of open.values()) {
        thing.end = time;
        thing.cut = true;
        if (thing.states && thing.states.length) thing.states[thing.states.length - 1].end = time;
      }
      open = new Map(); commands = new Map(); transactionOf = new Map(); launching = emptied = null;
      run += 1;
      begins.push(time);
      return [];
    },
    ClientConnected(data, time, index) {
      const key = named("client", data.client);
      begin("clients", key, `client ${data.client}`, index, { commands: [], events: [] });
      return [key];
    },
    ClientGone(data, time) { const key = named("client", data.client); finish(key, time); return [key]; },
    CommandReceived(data, time, index) {
      const client = open.get(named("client", data.client));
      const command = { start: time, end, index, label: data.command, colour: "accent", failed: false };
      commands.set(data.number, command);
      if (client) client.commands.push(command);
      return [named("command", data.number), named("client", data.client)];
    },
    CommandAnswered(data, time, index) {
      const command = commands.get(data.number);
      if (command) {
        command.end = time;
        if (data.error !== null) Object.assign(command, { colour: "failed", failed: true });
        replyOf.set(command.index, index);
      }
      commands.delete(data.number);
      return [named("command", data.number), named("client", data.client)];
    },
    EventEmitted(data, time, index) {
      const keys = [];
      for (const number of data.clients) {
        const client = open.get(named("client", number));
        if (client) client.events.push(index);
        if (keys.length < 8) keys.push(named("client", number));
      }
      const about = data.data || {};
      if (data.event === "JOB_STATUS_CHANGE") {
        const thing = job(about.id, index);
        changeState(thing, about.status, time, index);
        if (about.status === "null") finish(thing.key, time);
        keys.unshift(...keysOfJob(thing));
      } else if (typeof about.device === "string" && open.has(named("job", about.device))) {
        keys.unshift(...keysOfJob(job(about.device, index)));
      }
      return keys;
    },
    ActionStep(data) {
      if (launching && data.error !== null) launching.failed = true;
      return launching ? [launching.key] : [];
    },
    ReferenceChanged(data, time, index) {
      const thing = data.change === "taken" ? transaction(data, index) : holding(data.holder);
      if (!thing) return [];
      if (data.change === "taken") thing.holders.push(data.holder);
      else thing.holders = thing.holders.filter((one) => one !== data.holder);
      if (data.change === "dropped" && data.holder === "launch") launching = null;
      emptied = data.held ? null : thing;
      const owner = data.holder.startsWith("job ") ? [named("job", data.holder.slice(4))] : [];
      if (owner.length && data.change === "taken") transactionOf.set(owner[0], thing.key);
      return [thing.key, ...owner];
    },
    TransactionOver(data, time) {
      const thing = emptied;
      if (!thing) return [];
      thing.failed = thing.failed || (data.ret !== 0 && data.ret !== CANCELED);
      finish(thing.key, time);
      return [thing.key];
    },
    BitmapSettled(data) { return [`bitmap ${data.node}/${data.bitmap}`]; },
    BitmapChanged(data, time, index) {
      const name = `${data.node}/${data.bitmap}`;
      const key = `bitmap ${name}`; // the same in each run
      const thing = open.get(key) || begin("bitmaps", key, name, index, { states: [], node: data.node });
      changeState(thing, data.state, time, index);
      if (data.state === "removed") finish(key, time);
      return [key];
    },
    NbdClientConnected(data, time, index) {
      const key = named("NBD client", data.client);
      begin("nbd", key, `NBD client ${data.client}`, index, { activity: [], exported: null });
      return [key];
    },
    NbdExportOpened(data) {
      const key = named("NBD client", data.client);
      const thing = open.get(key);
      if (thing) { thing.exported = data.export; thing.label = `${thing.label}, ${data.export}`; }
      return [key];
    },
    NbdRequests(data, time, index) {
      const key = named("NBD client", data.client);
      const thing = open.get(key);
      const label = `${(data.reads + data.writes + data.others).toLocaleString("en")} requests`;
      const start = Math.max(time - data.period, thing ? thing.start : 0);
      if (thing) thing.activity.push({ start, end: time, index, key, label, colour: "accent", failed: false });
      return [key];
    },
    NbdClientGone(data, time) { const key = named("NBD client", data.client); finish(key, time); return [key]; },
    JobStarted(data, time, index) {
      const thing = job(data.job, index);
      Object.assign(thing, { type: data.type, source: data.source, target: data.target, size: data.size, started: index });
      return keysOfJob(thing);
    },
    JobProgress(data, time, index) {
      const thing = job(data.job, index);
      thing.progress.push({ time, share: data.total ? Math.min(1, data.current / data.total) : 1, index });
      for (const range of data.ranges) thing.parts.push(range);
      return [thing.key];
    },
    JobError(data, time, index) { return keysOfJob(job(data.job, index)); },
    JobEnded(data, time, index) {
      const thing = job(data.job, index);
      thing.outcome = data.outcome;
      thing.failed = data.outcome === "failed";
      return keysOfJob(thing);
    },
  };

  return {
    program: "",
    began: 0,
    keysFor(event, index) {
      if (event[KIND] === "RecordBegan" && !index) [this.began, this.program] = [event[DATA].began - event[TIME], event[DATA].program];
      const handle = handlers[event[KIND]];
      return handle ? handle(event[DATA], event[TIME], index) : [];
    },
    extendOpen() { // what has not ended lasts as long as the record
      for (const command of commands.values()) command.end = end;
      for (const thing of open.values()) {
        thing.end = end;
        if (thing.states && thing.states.length) thing.states[thing.states.length - 1].end = end;
      }
    },
  };
}

// Returns the first position in a sorted list whose value, by `of`, is not less than `value`.
function lowerBound(list, value, of) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) < value) low = middle + 1; else high = middle;
  }
  return low;
}

const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${Number(bytes.toPrecision(3))} ${units[unit]}`;
};
const seconds = (time) => `${(time / 1e6).toFixed(time < 1e9 ? 6 : 3)}`;
// A length of time, for axes and facts.
const span = (time) => {
  if (time < 1e3) return `${Math.round(time)} µs`;
  if (time < 1e6) return `${Number((time / 1e3).toPrecision(4))} ms`;
  if (time < 60e6) return `${Number((time / 1e6).toPrecision(4))} s`;
  const whole = Math.round(time / 1e6);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const named = [`${parts[0]} h`, `${parts[1]} min`, `${parts[2]} s`];
  return named.filter((_, number) => parts[number]).slice(0, 2).join(" ");
};
const wallClock = (time) => new Date((model.began + time) / 1000).toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
