// Puts all together: selection, keyboard, pointer, search, colours, printing.

const search = document.getElementById("search");
const foundCount = document.getElementById("found");
const failuresButton = document.getElementById("failures");
const themeButton = document.getElementById("theme");
const tipBox = document.getElementById("tip");
const PRINTED = 2000; // events
const PAGE_ROWS = 15;

function select(index) {
  selected = index;
  if (index >= 0) reveal(timeOf(index));
  scrollTo(index);
  showDetails(index);
  document.querySelectorAll(".map[aria-current]").forEach((row) => row.removeAttribute("aria-current"));
  for (const map of maps) if (map.index === index) map.row.setAttribute("aria-current", "true");
  redraw();
}

function tip(text, event) {
  tipBox.hidden = !text;
  if (!text) return;
  tipBox.textContent = text;
  const { width: wide, height } = tipBox.getBoundingClientRect();
  tipBox.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - wide - 8))}px`;
  tipBox.style.top = `${event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
}

// Keyboard

const move = (step) => {
  if (!listed.length) return;
  const from = position < 0 ? (step > 0 ? -1 : listed.length) : position;
  select(listed[Math.min(Math.max(from + step, 0), listed.length - 1)]);
};
const moveInLane = (step) => {
  if (selected < 0) return move(step);
  const among = members.get(keysOf[selected][0]) || everything;
  const other = among[lowerBound(among, selected, (one) => one) + step];
  if (other !== undefined) select(other);
  return undefined;
};
const KEYS = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), ArrowRight: () => moveInLane(1), ArrowLeft: () => moveInLane(-1),
  PageDown: () => move(PAGE_ROWS), PageUp: () => move(-PAGE_ROWS), Home: () => move(-events.length), End: () => move(events.length),
  Enter: () => { if (selected < 0) move(1); details.focus(); },
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: showAll,
  "/": () => { search.focus(); search.select(); },
  Escape: () => { if (search.value) { search.value = ""; applyFilter(); } else select(-1); list.focus(); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === search;
  const pressing = event.target instanceof HTMLButtonElement;
  if (typing && !["Escape", "Enter", "ArrowDown", "ArrowUp"].includes(event.key)) return;
  if (pressing && event.key === "Enter") return;
  if (details.contains(event.target) && ["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"].includes(event.key)) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  if (typing && event.key === "Enter") { move(1); list.focus(); } else action();
});

// Pointer

let dragged = null;
canvas.addEventListener("pointerdown", (event) => { dragged = { x: event.clientX, start: view.start, end: view.end, moved: false }; });
window.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  const distance = event.clientX - dragged.x;
  dragged.moved = dragged.moved || Math.abs(distance) > 4;
  if (!dragged.moved) return;
  tip("");
  const times = distance * (dragged.end - dragged.start) / (width - gutter);
  show(dragged.start - times, dragged.end - times);
});
window.addEventListener("pointerup", (event) => {
  if (dragged && !dragged.moved) {
    const index = eventAt(event.offsetX, event.offsetY);
    if (index >= 0) select(index);
  }
  dragged = null;
});
canvas.addEventListener("mousemove", (event) => {
  if (dragged) return;
  const index = eventAt(event.offsetX, event.offsetY);
  canvas.style.cursor = index < 0 ? "grab" : "pointer";
  tip(index < 0 ? "" : `${seconds(timeOf(index))} s\n${events[index][TEXT]}`, event);
});
canvas.addEventListener("mouseleave", () => tip(""));
canvas.addEventListener("wheel", (event) => {
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    zoom(1.0015 ** event.deltaY, toTime(event.offsetX));
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    const times = (event.deltaX || event.deltaY) * (view.end - view.start) / (width - gutter);
    show(view.start + times, view.end + times);
  }
}, { passive: false });
canvas.addEventListener("dblclick", (event) => zoom(0.33, toTime(event.offsetX)));

let choosing = false;
function choose(event) {
  const middle = beginning() + event.offsetX / overview.clientWidth * (end - beginning());
  const half = (view.end - view.start) / 2;
  show(middle - half, middle + half);
}
overview.addEventListener("pointerdown", (event) => { choosing = true; overview.setPointerCapture(event.pointerId); choose(event); });
overview.addEventListener("pointermove", (event) => choosing && choose(event));
overview.addEventListener("pointerup", () => { choosing = false; });

// Search and failures

function applyFilter() {
  const only = failuresButton.getAttribute("aria-pressed") === "true";
  foundCount.textContent = "searching";
  filter(search.value, only, () => {
    foundCount.textContent = search.value || only ? `${listed.length.toLocaleString("en")} of ${events.length.toLocaleString("en")}` : "";
  });
}
search.addEventListener("input", applyFilter);
search.addEventListener("focus", () => requestIdleCallback(makeTexts));
failuresButton.addEventListener("click", () => {
  failuresButton.setAttribute("aria-pressed", String(failuresButton.getAttribute("aria-pressed") !== "true"));
  applyFilter();
});

// Colours: the system's until one is chosen.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
function paint(theme) {
  document.documentElement.dataset.theme = theme;
  themeButton.textContent = theme === "dark" ? "Light" : "Dark";
  readPalette();
  draw();
  drawMaps();
}
const theme = () => chosen || (dark.matches ? "dark" : "light");
themeButton.addEventListener("click", () => { chosen = theme() === "dark" ? "light" : "dark"; paint(theme()); });
dark.addEventListener("change", () => paint(theme()));

// Printing: on white, and the events as a table.

window.addEventListener("beforeprint", () => {
  const table = element("table");
  for (const index of listed.slice(0, PRINTED)) {
    const row = element("tr", undefined, failed.has(index) ? "failed" : "");
    row.append(element("td", seconds(timeOf(index))), element("td", NAMES[events[index][KIND]]), element("td", events[index][TEXT]));
    table.append(row);
  }
  const more = listed.length - PRINTED;
  document.getElementById("printed").replaceChildren(element("h2", "Events"), table, element("p", more > 0 ? `and ${more} more` : ""));
  maps.forEach((map) => { map.seen = true; });
  document.documentElement.classList.add("printing");
  paint("light");
});
window.addEventListener("afterprint", () => { document.getElementById("printed").replaceChildren(); document.documentElement.classList.remove("printing"); paint(theme()); });

function legend(id, colours) {
  for (const [colour, text] of colours) {
    const item = element("li");
    const swatch = element("i");
    swatch.style.setProperty("--swatch", `var(--${colour})`);
    item.append(swatch, text);
    document.getElementById(id).append(item);
  }
}

function showFacts() {
  const count = events.length.toLocaleString("en");
  const runs = begins.length > 1 ? ` · ${begins.length} runs` : "";
  const most = dropped ? ` (the last; ${dropped.toLocaleString("en")} before them are dropped)` : "";
  document.getElementById("facts").replaceChildren(
    `${model.program} · ${wallClock(0)} · ${span(lastTime())} · ${count} ${events.length === 1 ? "event" : "events"}${most}${runs} · `,
    failures.length ? element("strong", `${failures.length} ${failures.length === 1 ? "failure" : "failures"}`) : "no failure",
  );
  failuresButton.textContent = `Failures (${failures.length})`;
  failuresButton.disabled = !failures.length;
  list.style.setProperty("--time-width", `${Math.ceil(seconds(end).length * 7.3)}px`);
}

function start() {
  document.getElementById("title").textContent = record.title;
  legend("legend", LEGEND);
  legend("disk-legend", DISK_LEGEND);
  document.getElementById("zoom-in").onclick = () => zoom(0.5);
  document.getElementById("zoom-out").onclick = () => zoom(2);
  document.getElementById("zoom-all").onclick = showAll;
  list.addEventListener("scroll", () => requestAnimationFrame(() => drawList(false)));
  lanes.addEventListener("scroll", redraw);
  window.addEventListener("resize", () => { redraw(); drawMaps(); drawList(false); });
  clearEvents();
  take(record.events);
  selected = failures.length ? failures[0] : -1;
  fillList();
  select(selected);
  if (record.live) follow(record.live);
}
start();
