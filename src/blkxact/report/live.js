// Takes in events: those of the page, and, if the page is live, those that come.

const MOST_EVENTS = 200000; // that a live page holds; of more, the older half is dropped
const BUSY = 0.2; // share of the time for which taking in events may keep the page busy
let dropped = 0;

function take(more) {
  const from = events.length;
  addEvents(more);
  if (events.length) {
    layOut();
    showFacts();
  }
  extendList(from);
  if (!from || more.some((event) => ON_DISKS.has(event[KIND]))) changeDisks();
  if (view.all) showAll();
  if (from) redraw(); else paint(theme());
}

// The maps are made anew once they have rested for some times as long as that takes.
let disksRest = 0; // until this time
let disksDue = null;
function changeDisks() {
  const rest = disksRest - performance.now();
  if (rest <= 0) remakeDisks();
  else disksDue ??= setTimeout(remakeDisks, rest);
}
function remakeDisks() {
  clearTimeout(disksDue);
  disksDue = null;
  const began = performance.now();
  makeDisks();
  disksRest = performance.now() + (performance.now() - began) * (1 / BUSY - 1);
}

function dropOld() { // begins anew with the last run's begin and the newer half
  const cut = events.length - MOST_EVENTS / 2;
  const began = events.findLastIndex((event, index) => index < cut && event[KIND] === "RecordBegan");
  const [kept, chosen] = [[events[began], ...events.slice(cut)], selected - cut + 1];
  dropped += events.length - kept.length;
  clearEvents();
  forgetMaps();
  forgetTexts();
  [everything, selected, disksRest] = [[], -1, 0];
  listed = everything;
  take(kept);
  selected = Math.max(chosen, 0) || -1;
  applyFilter();
  select(selected);
}

// Asks for what is new until there is no more. The answer to a question waits for something new.
async function follow(address) {
  const state = document.getElementById("live");
  const say = (text, isBad) => { state.textContent = text; state.className = isBad ? "bad" : ""; };
  state.hidden = false;
  let next = "";
  for (;;) {
    let answer;
    try {
      const response = await fetch(`${address}?${next}`);
      answer = await response.json();
    } catch {
      return say("No longer live: blkxact watch has ended", true);
    }
    if (answer.error) return say(`No longer live: ${answer.error}`, true);
    const began = performance.now();
    if (answer.events.length) take(answer.events);
    if (events.length > MOST_EVENTS) dropOld();
    if (answer.over) return say("The daemon has ended", false);
    if (state.textContent !== "Live") say("Live", false);
    next = answer.next;
    await new Promise((done) => setTimeout(done, (performance.now() - began) * (1 / BUSY - 1)));
  }
}
