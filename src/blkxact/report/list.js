// The list of events: only the rows that are seen exist. It says all that the canvas shows.

const ROW = 26;
const list = document.getElementById("list");
const listSize = document.getElementById("list-size");
let everything = []; // all indexes
let listed = everything; // the indexes of the events that are shown
let position = -1; // of the selected event in `listed`
const shownRows = new Map(); // position -> element

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function makeRow(at) {
  const index = listed[at];
  const [time, kind, text] = events[index];
  const row = element("div", undefined, failed.has(index) ? "event failed" : "event");
  row.id = `event-${index}`;
  row.style.top = `${at * ROW}px`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", String(index === selected));
  row.setAttribute("aria-setsize", String(listed.length));
  row.setAttribute("aria-posinset", String(at + 1));
  row.title = text;
  row.append(element("time", seconds(time)), element("b", failed.has(index) ? `✕ ${NAMES[kind]}` : NAMES[kind]), element("span", text));
  row.onclick = () => select(index);
  return row;
}

function drawList(afresh) {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 8);
  const last = Math.min(listed.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 8);
  for (const [at, row] of shownRows) {
    if (afresh || at < first || at >= last) { row.remove(); shownRows.delete(at); }
  }
  for (let at = first; at < last; at++) {
    if (!shownRows.has(at)) { const row = makeRow(at); shownRows.set(at, row); listSize.append(row); }
  }
  for (const [at, row] of shownRows) row.setAttribute("aria-selected", String(listed[at] === selected));
}

function fillList() {
  listSize.style.height = `${listed.length * ROW}px`;
  list.querySelectorAll(".empty").forEach((one) => one.remove());
  if (!listed.length) list.append(element("p", events.length ? "No event matches." : "No event yet.", "empty"));
  position = lowerBound(listed, selected, (one) => one);
  if (listed[position] !== selected) position = -1;
  list.scrollTop = position < 0 ? 0 : Math.max(0, position * ROW - list.clientHeight / 2);
  drawList(true);
}

function scrollTo(index) {
  position = lowerBound(listed, index, (one) => one);
  if (listed[position] !== index) position = -1;
  if (position >= 0) {
    const top = position * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  }
  drawList(false);
  if (position >= 0) list.setAttribute("aria-activedescendant", `event-${index}`);
  else list.removeAttribute("aria-activedescendant");
}

// Search: the text of an event is made once, when it is first needed, or while nothing else happens.
let texts = [];
let madeTexts = 0; // up to this event
let query = { wanted: [], onlyFailures: false };
function textOf(index) {
  const [, kind, text, data] = events[index];
  return texts[index] ??= `${NAMES[kind]} ${kind} ${text} ${JSON.stringify(data)}`.toLowerCase();
}
function makeTexts(idle) {
  while (madeTexts < events.length && idle.timeRemaining() > 1) textOf(madeTexts++);
  if (madeTexts < events.length) requestIdleCallback(makeTexts);
}
function forgetTexts() { [texts, madeTexts] = [[], 0]; }
function matching(from) {
  const { wanted } = query;
  return wanted.length ? from.filter((index) => wanted.every((word) => textOf(index).includes(word))) : from;
}
let atOnce = 200000; // events are searched at once; of more, `slice` at a time, so that one can type meanwhile
let slice = 10000;
let searches = 0;
// Shows the events that match, and calls `then` when they are shown.
function filter(words, onlyFailures, then) {
  query = { wanted: words.toLowerCase().split(/\s+/).filter(Boolean), onlyFailures };
  const from = onlyFailures ? failures : everything;
  const show = (found) => { listed = found; fillList(); then(); };
  const mine = ++searches;
  if (!query.wanted.length || from.length <= atOnce) return show(matching(from));
  const found = [];
  const search = (at) => {
    if (mine !== searches) return; // something else is searched for
    for (const index of matching(from.slice(at, at + slice))) found.push(index);
    if (at + slice < from.length) setTimeout(search, 0, at + slice); else show(found);
  };
  return search(0);
}

// Takes the events from `from` on into the list. What is seen of it stays where it is.
function extendList(from) {
  for (let index = from; index < events.length; index++) everything.push(index);
  if (listed !== everything && listed !== failures) {
    const among = query.onlyFailures ? failures : everything;
    for (const index of matching(among.slice(lowerBound(among, from, (one) => one)))) listed.push(index);
  }
  listSize.style.height = `${listed.length * ROW}px`;
  if (listed.length) list.querySelectorAll(".empty").forEach((one) => one.remove());
  drawList(false);
  for (const row of shownRows.values()) row.setAttribute("aria-setsize", String(listed.length));
}

// Details of one event, and its neighbours.
const details = document.getElementById("details");

function showDetails(index) {
  details.replaceChildren();
  details.scrollTop = 0;
  if (index < 0) {
    details.append(element("p", "Select an event in the timeline, in the list or on a disk.", "empty"));
    return;
  }
  const [time, kind, text, data] = events[index];
  const title = element("h3", text, failed.has(index) ? "failed" : "");
  details.append(title, element("p", `${seconds(time)} s · ${wallClock(time)} · ${kind}`, "when"));
  details.append(element("h4", "Data"), element("pre", JSON.stringify(brief(data), null, 2)));
  const holders = holdersAt(index);
  if (holders) details.append(element("h4", "Who holds the transaction now"), element("pre", holders.join("\n") || "nobody"));
  details.append(element("h4", "Neighbours"));
  const box = element("div", undefined, "neighbours");
  for (const key of keysOf[index]) addNeighbours(box, key, members.get(key), index);
  addNeighbours(box, "all events", everything, index);
  details.append(box);
}

function brief(data) { // of many ranges, the first
  if (!data.ranges) return data;
  const ranges = data.ranges.slice(0, 40).map(([offset, bytes]) => `${offset} + ${bytes}`);
  if (data.ranges.length > 40) ranges.push(`… ${data.ranges.length - 40} more`);
  return { ...data, ranges };
}

function holdersAt(index) {
  const key = keysOf[index].find((one) => one.startsWith("transaction "));
  if (!key) return null;
  const held = new Set();
  for (const one of members.get(key)) {
    if (one > index) break;
    const [, kind, , data] = events[one];
    if (kind === "ReferenceChanged") held[data.change === "taken" ? "add" : "delete"](data.holder);
  }
  return [...held];
}

function addNeighbours(box, key, among, index) {
  const at = lowerBound(among, index, (one) => one);
  box.append(element("span", `${key} · ${at + 1} of ${among.length}`));
  for (const [arrow, step] of [["←", -1], ["→", 1]]) {
    const other = among[at + step];
    const button = element("button", other === undefined ? "–" : step < 0 ? `${arrow} ${events[other][TEXT]}` : `${events[other][TEXT]} ${arrow}`);
    button.type = "button";
    button.disabled = other === undefined;
    button.title = other === undefined ? "" : events[other][TEXT];
    button.onclick = () => select(other);
    box.append(button);
  }
}
