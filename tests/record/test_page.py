"""The page of a record, in a browser: what is there, the keyboard, search, hostile texts."""

from __future__ import annotations

import json
import random

import pytest

from blkxact.monitor.recorded import (
    BitmapChanged,
    ClientConnected,
    CommandAnswered,
    CommandReceived,
    NbdClientConnected,
    NbdClientGone,
    NbdExportOpened,
    NbdRequests,
    RecordBegan,
)
from blkxact.record.reader import read_record
from blkxact.record.writer import RecordWriter
from blkxact.report.page import page_of
from tests.record.browser import NEEDS_CHROMIUM, run_in_page
from tests.record.many import ManyEvents

EVENTS = 3000
HOSTILE = "</script><img src=x onerror=\"document.title='broken out'\"><!--<script>"
FUTURE = 1 << 53


@pytest.fixture
def page(tmp_path):
    """A function that makes a page of a record."""

    def make(record):
        path = tmp_path / "page.html"
        path.write_text(page_of(read_record(record), record.name))
        return path

    return make


@pytest.fixture
def many(tmp_path):
    """A record of many events."""
    record = tmp_path / "many.jsonl"
    ManyEvents(record, EVENTS, random.Random(3)).make()
    return record


def test_hostile_texts_stay_in_the_data(tmp_path, page):
    record = tmp_path / "run.jsonl"
    writer = RecordWriter(str(record), 1 << 20)
    writer.begin(0, HOSTILE)
    writer.write(ClientConnected(1, HOSTILE), 1)
    writer.close()
    text = page(record).read_text()
    assert HOSTILE not in text
    assert text.count("</script>") == 2
    data = text.partition('<script id="record" type="application/json">')[2].partition("</script")[
        0
    ]
    assert json.loads(data)["events"][1][3]["address"] == HOSTILE


def test_page_refers_to_nothing_outside(many, page):
    text = page(many).read_text()
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


@NEEDS_CHROMIUM
def test_hostile_texts_are_shown_as_they_are(tmp_path, page):
    record = tmp_path / "run.jsonl"
    writer = RecordWriter(str(record), 1 << 20)
    writer.begin(0, "blkxact")
    writer.write(ClientConnected(1, "x"), 1)
    writer.write(CommandReceived(1, 1, HOSTILE, {"id": HOSTILE}), 2)
    writer.write(CommandAnswered(1, 1, HOSTILE, None, HOSTILE), 3)
    writer.close()
    found = run_in_page(
        page(record),
        "await frame(); return {title: document.title, images: document.images.length,"
        " detail: document.querySelector('#details h3').textContent};",
    )
    assert found == {
        "title": "run.jsonl",
        "images": 0,
        "detail": f"client 1: {HOSTILE} refused: {HOSTILE}",
    }


@NEEDS_CHROMIUM
def test_list_holds_only_what_is_seen_and_says_what_is_not(many, page):
    found = run_in_page(
        page(many),
        """
        await frame();
        const option = list.querySelector("[role=option]");
        return {
          options: list.querySelectorAll("[role=option]").length,
          size: option.getAttribute("aria-setsize"),
          role: list.getAttribute("role"),
          active: list.getAttribute("aria-activedescendant"),
          first: failures[0],
          exists: Boolean(document.getElementById(`event-${failures[0]}`)),
        };
        """,
    )
    assert 0 < found["options"] < 100
    assert found["size"] == str(EVENTS)
    assert found["role"] == "listbox"
    assert (found["active"], found["exists"]) == (f"event-{found['first']}", True)


@NEEDS_CHROMIUM
def test_keyboard_moves_searches_and_clears(many, page):
    found = run_in_page(
        page(many),
        """
        const at = () => selected;
        const steps = [];
        key("Escape"); steps.push(at());
        key("ArrowDown"); key("ArrowDown"); key("ArrowDown"); steps.push(at());
        key("ArrowUp"); steps.push(at());
        key("End"); steps.push(at());
        key("ArrowDown"); steps.push(at());
        key("Home"); steps.push(at());
        select(members.get("client 1")[0]); key("ArrowRight");
        steps.push(at() === members.get("client 1")[1]);
        key("/"); steps.push(document.activeElement.id);
        search.value = "backup-2 prepare"; applyFilter(); steps.push(listed.length < 10);
        search.value = "NoSuchThing"; applyFilter(); steps.push(list.textContent);
        key("Escape", search); steps.push(listed.length);
        key("Enter"); steps.push(document.activeElement.id);
        return steps;
        """,
    )
    assert found == [
        *(-1, 2, 1, EVENTS - 1, EVENTS - 1, 0, True),
        *("search", True, "No event matches.", EVENTS, "details"),
    ]


@NEEDS_CHROMIUM
def test_many_events_are_searched_some_at_a_time(many, page):
    found = run_in_page(
        page(many),
        """
        const look = (words) => { search.value = words; applyFilter(); };
        look("backup-2"); const wanted = listed;
        look("client 1"); look("");
        [atOnce, slice] = [10, 100];
        look("client 1"); look("backup-2");
        const steps = [listed.length, foundCount.textContent];
        while (foundCount.textContent === "searching") await frame();
        steps.push(listed.join() === wanted.join(), foundCount.textContent.split(" ")[0]);
        look("client 1"); look(""); await frame();
        return [wanted.length, ...steps, listed.length];
        """,
    )
    number = found[0]
    assert 0 < number < EVENTS
    assert found[1:] == [EVENTS, "searching", True, f"{number:,}", EVENTS]


@NEEDS_CHROMIUM
def test_what_one_clicks_on_in_the_timeline_is_selected(many, page):
    found = run_in_page(
        page(many),
        """
        await frame();
        const click = (x, y) => {
          const area = canvas.getBoundingClientRect();
          const at = { clientX: area.left + x, clientY: area.top + y, bubbles: true };
          for (const kind of ["pointerdown", "pointerup"])
            canvas.dispatchEvent(new PointerEvent(kind, at));
        };
        key("Escape");
        click(toX(timeOf(failures[1])), AXIS + 14);
        const failure = selected === failures[1];
        const job = things.jobs.find((one) => one.outcome === "failed");
        show(job.start - 1000, job.end + 1000); draw();
        const row = rows.findIndex((one) => one.spans.some((span) => span.key === job.key));
        click(toX((job.start + job.end) / 2), AXIS + tops[row] - lanes.scrollTop + 13);
        return {failure, job: keysOf[selected].includes(job.key),
                neighbours: document.querySelectorAll("#details .neighbours button").length};
        """,
    )
    assert found["failure"]
    assert found["job"]
    assert found["neighbours"] >= 4


@NEEDS_CHROMIUM
def test_drawing_takes_as_many_steps_as_there_are_pixels_and_not_events(tmp_path, page):
    """Counted, not measured: with 30 times the events a frame is not 30 times the work."""
    work = {}
    for count in (EVENTS, 30 * EVENTS):
        record = tmp_path / f"{count}.jsonl"
        ManyEvents(record, count, random.Random(3)).make()
        work[count] = run_in_page(
            page(record),
            """
            await frame();
            let calls = 0;
            const fillRect = pen.fillRect.bind(pen);
            pen.fillRect = (...area) => { calls += 1; fillRect(...area); };
            showAll(); draw();
            return {calls, pixels: width * rows.length};
            """,
        )
    few, many = work[EVENTS], work[30 * EVENTS]
    assert many["calls"] < 2 * many["pixels"]
    assert many["calls"] < 10 * few["calls"]


@NEEDS_CHROMIUM
def test_client_of_the_nbd_server_has_a_lane_with_its_requests(tmp_path, page):
    record = tmp_path / "run.jsonl"
    writer = RecordWriter(str(record), 1 << 20)
    writer.begin(0, "blkxact")
    for time, event in (
        (100, NbdClientConnected(1)),
        (200, NbdExportOpened(1, "disk")),
        (1000, NbdRequests(1, 500, 3, 4096, 2, 512, 1)),
        (1100, NbdClientConnected(2)),
        (1200, NbdRequests(1, 100, 1, 1, 0, 0, 0)),
        (1300, NbdClientGone(1)),
        (1400, NbdClientGone(2)),
    ):
        writer.write(event, time)
    writer.close()
    found = run_in_page(
        page(record),
        """
        const row = rows.find((one) => one.label === "NBD client 1, disk");
        select(3);
        return {
          labels: rows.map((one) => one.label).slice(1),
          connected: row.under.map((one) => [one.start, one.end]),
          spans: row.spans.map((one) => [one.start, one.end, one.label]),
          lane: keysOf[3], text: document.querySelector("#details h3").textContent,
          list: list.querySelector("[aria-selected=true] b").textContent,
        };
        """,
    )
    assert found == {
        "labels": ["NBD client 1, disk", "NBD client 2"],
        "connected": [[100, 1300]],
        "spans": [[500, 1000, "6 requests"], [1100, 1200, "1 requests"]],
        "lane": ["NBD client 1"],
        "text": "NBD client 1: 3 reads of 4,096 bytes, 2 writes of 512 bytes, 1 other requests",
        "list": "NBD",
    }


@NEEDS_CHROMIUM
def test_run_that_was_killed_ends_where_the_next_begins(tmp_path, page):
    record = tmp_path / "run.jsonl"
    for number in (1, 2):
        writer = RecordWriter(str(record), 1 << 20)
        writer.begin(number * 1000, "blkxact")
        writer.write(ClientConnected(1, "x"), 100)
        writer.write(CommandReceived(1, 1, "quit"), 200)
        writer.write(BitmapChanged("a", "b", "frozen", 0, 1 << 20, 1 << 16, []), 300)
        writer.close()
    found = run_in_page(
        page(record),
        """
        const times = (one) => [one.start, one.end];
        return {
          clients: things.clients.map(times),
          commands: things.clients.flatMap((one) => one.commands).map(times),
          bitmaps: rows.filter((row) => row.label === "a/b").map((row) => row.spans.map(times)),
          keys: [...members.keys()],
        };
        """,
    )
    assert found["clients"] == [[100, 1000], [1100, 1300]]
    assert found["commands"] == [[200, 1000], [1200, 1300]]
    assert found["bitmaps"] == [[[300, 1000], [1300, 1300]]]
    assert {"client 1", "client 1 (run 2)", "bitmap a/b"} <= set(found["keys"])


@NEEDS_CHROMIUM
def test_maps_are_taken_over_when_events_come(many, page):
    """What the page does when it is live."""
    found = run_in_page(
        page(many),
        """
        const before = [...document.querySelectorAll(".map")];
        before[5].focus();
        const size = 1 << 30;
        const dirty = { node: "disk0", bitmap: "new", state: "frozen", count: 65536, size };
        take([[end + 1, "BitmapChanged", "x", { ...dirty, grain: 65536, ranges: [[0, 65536]] }]]);
        remakeDisks();
        const after = [...document.querySelectorAll(".map")];
        return {
          more: after.length - before.length, kept: before.every((row) => after.includes(row)),
          focused: document.activeElement === before[5], last: rows.at(-1).label,
          dates: maps.every((map) => mapOf.get(map.canvas) === map),
        };
        """,
    )
    assert found["more"] == 1
    assert (found["kept"], found["focused"], found["dates"]) == (True, True, True)
    assert found["last"] == "disk3/nightly"


@NEEDS_CHROMIUM
def test_what_a_job_copied_twice_counts_once(many, page):
    found = run_in_page(
        page(many), "return united([[8, 4], [0, 4], [4, 2], [5, 2], [9, 1], [20, 1]]);"
    )
    assert found == [[0, 7], [8, 4], [20, 1]]


@NEEDS_CHROMIUM
@pytest.mark.parametrize("window", ["400,800", "1600,900"])
def test_nothing_is_wider_than_the_window(many, page, window):
    found = run_in_page(
        page(many),
        "await frame(); const root = document.documentElement;"
        " return [root.scrollWidth, root.clientWidth];",
        window=window,
    )
    assert found[0] == found[1]


@NEEDS_CHROMIUM
def test_empty_run_says_so(tmp_path, page):
    record = tmp_path / "empty.jsonl"
    writer = RecordWriter(str(record), 1 << 20)
    writer.begin(0, "blkxact")
    writer.close()
    found = run_in_page(
        page(record),
        "await frame(); return [document.getElementById('facts').textContent,"
        " document.getElementById('disks').textContent];",
    )
    assert found[0].endswith("1 event · no failure")
    assert found[1] == "No job copied a disk and no bitmap was changed."


def test_page_of_events_that_were_never_in_a_file():
    """What ``prove`` uses."""
    text = page_of([(0, RecordBegan(1, FUTURE, "prove"))], "case <1>")
    assert "<title>case &lt;1&gt;</title>" in text
