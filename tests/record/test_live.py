"""The page that is live: reading a record that grows, the server, and the page in a browser."""

from __future__ import annotations

import http.client
import json
import queue
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from blkxact.monitor.recorded import ClientConnected, ClientGone, RecordBegan
from blkxact.record import reader
from blkxact.record.reader import Position, RecordError, read_piece, read_record
from blkxact.record.writer import RecordWriter
from blkxact.report import live
from blkxact.report.live import LiveServer
from blkxact.testing.waiting import until
from tests.record.browser import NEEDS_CHROMIUM, RESULT, chromium_command
from tests.record.many import ManyEvents

LIMIT = 1 << 24
TIMEOUT = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def writer(path):
    """A record that has begun."""
    with closing(RecordWriter(str(path), LIMIT)) as made:
        made.begin(1000, "blkxact")
        yield made


def read_all(path):
    """Return all entries, read piece by piece."""
    position, entries = Position(), []
    while True:
        more, position = read_piece(path, Position.parse(str(position)))
        entries += more
        if not more:
            return entries


# Reading on


def test_pieces_are_together_what_the_whole_is(path, monkeypatch):
    for seed in (1, 2):  # two runs
        ManyEvents(path, 1500, random.Random(seed)).make()
    monkeypatch.setattr(reader, "PIECE", 5000)
    assert read_all(path) == list(read_record(path))


def test_line_that_is_not_complete_is_read_the_next_time(path, writer):
    writer.write(ClientGone(1), 5)
    _, position = read_piece(path, Position())
    with path.open("a") as file:
        file.write('{"time":6,"trace":"ClientGone",')
    assert read_piece(path, position) == ([], position)
    with path.open("a") as file:
        file.write('"client":2}\n')
    [entry], after = read_piece(path, position)
    assert entry.event == ClientGone(2)
    assert after.offset == path.stat().st_size


def test_line_that_a_kill_has_cut_is_passed_over_once_the_next_run_begins(path, writer):
    with path.open("a") as file:
        file.write('{"time":6,"tra')
    again = RecordWriter(str(path), LIMIT)  # adds the end of the line
    _, position = read_piece(path, Position())
    again.begin(2000, "blkxact")
    again.close()
    [entry], _ = read_piece(path, position)
    assert entry.event == RecordBegan(1, 2000, "blkxact")
    assert entry.time == 1000


@pytest.mark.parametrize(
    "text", ["x", "1.2", "-1.0.0.0.0", "1.2.3.4.5.6", "1.-1.0.0.0", "9" * 9999]
)
def test_text_that_is_no_position_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Position.parse(text)


def test_record_that_was_replaced_is_noticed(path, writer):
    with pytest.raises(RecordError, match="it is shorter than it was"):
        read_piece(path, Position(offset=10_000))


def test_line_without_an_end_is_refused(path, writer, monkeypatch):
    monkeypatch.setattr(reader, "PIECE", 500)
    _, position = read_piece(path, Position())
    with path.open("a") as file:
        file.write("x" * 1000)
    with pytest.raises(RecordError, match="line 2: it is longer than 500 bytes"):
        read_piece(path, position)


# The server


@pytest.fixture
def server(path, writer):
    made = LiveServer(path, "secret")
    yield made
    made.close()


def get(server, path):
    """Return the status and the text of an answer."""
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=TIMEOUT)
    ) as one:
        one.request("GET", path)
        answer = one.getresponse()
        return answer.status, answer.read().decode()


def ask(server, position=""):
    status, text = get(server, f"/secret/events?{position}")
    assert status == 200
    return json.loads(text)


def test_server_is_on_loopback_and_its_address_has_the_secret(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/secret/"
    status, page = get(server, "/secret/")
    assert status == 200
    assert "connect-src 'self'" in page
    assert "https://" not in page


@pytest.mark.parametrize(
    "address", ["/", "/secret", "/secret/x", "/secret/../secret/", "/other/events"]
)
def test_nothing_else_is_served(server, address):
    assert get(server, address)[0] == 404


def test_position_that_is_none_is_refused(server):
    assert get(server, "/secret/events?nonsense")[0] == 400


def test_question_waits_for_what_comes(server, writer):
    first = ask(server)
    assert [event[1] for event in first["events"]] == ["RecordBegan"]
    assert not first["over"]
    with closing(socket.create_connection(("127.0.0.1", server.server_port))) as client:
        client.sendall(f"GET /secret/events?{first['next']} HTTP/1.0\r\n\r\n".encode())
        writer.write(ClientGone(1), 5)
        with client.makefile() as file:
            answer = file.read()
    events = json.loads(answer.partition("\n\n")[2])["events"]
    assert events == [[5, "ClientGone", "client 1 gone", {"client": 1}]]


def test_question_without_news_is_answered_after_a_while(server, monkeypatch):
    monkeypatch.setattr(live, "MAX_POLLS", 2)
    first = ask(server)
    assert ask(server, first["next"]) == {"events": [], "next": first["next"], "over": False}


def test_end_of_the_daemon_is_told_after_the_last_event(server, writer):
    server.over.set()
    first = ask(server)
    assert (len(first["events"]), first["over"]) == (1, False)
    assert ask(server, first["next"])["over"]
    server.finish()  # does not wait: the page knows


def test_record_that_is_gone_is_an_error_of_the_answer(server, path):
    path.unlink()
    assert ask(server) == {"error": f"{path}: No such file or directory"}


async def test_more_clients_than_it_takes_are_turned_away(server, monkeypatch):
    monkeypatch.setattr(live, "MAX_CLIENTS", 3)
    address = "127.0.0.1", server.server_port
    idle = [socket.create_connection(address) for _ in range(3)]
    try:

        def is_refused():
            with closing(socket.create_connection(address, timeout=0.2)) as one:
                try:
                    return one.recv(1) == b""
                except TimeoutError:
                    return False
                except ConnectionError:
                    return True

        await until(is_refused, TIMEOUT)
    finally:
        for one in idle:
            one.close()
    await until(lambda: _is_served(server), TIMEOUT)


def _is_served(server):
    try:
        return get(server, "/secret/")[0] == 200
    except (http.client.HTTPException, OSError):
        return False


# The command, with a real daemon


def start(*words, **more):
    return subprocess.Popen([sys.executable, "-m", "blkxact", *words], text=True, **more)


@pytest.fixture
def daemon(tmp_path):
    """A daemon with a record, and the path of its socket."""
    qmp = str(tmp_path / "q")
    process = start(
        *("serve", "--qmp", qmp, "--record", str(tmp_path / "run.jsonl")), stderr=subprocess.PIPE
    )
    assert "listening" in process.stderr.readline()
    yield process, qmp
    process.kill()
    process.communicate()


@pytest.fixture
def watch(daemon):
    """``blkxact watch --web`` of the daemon, and the address that it has printed."""
    process = start("watch", daemon[1], "--web", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def fetched(url, position=""):
    host, _, path = url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(host, timeout=TIMEOUT)) as one:
        one.request("GET", f"/{path}events?{position}")
        return json.loads(one.getresponse().read())


def test_watch_serves_what_happens_and_ends_with_the_daemon(daemon, watch):
    process, url = watch
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16}/", url)
    first = fetched(url)
    assert first["events"][0][1] == "RecordBegan"
    daemon[0].send_signal(signal.SIGTERM)
    texts = []
    answer = first
    while not answer["over"]:
        answer = fetched(url, answer["next"])
        texts += [event[2] for event in answer["events"]]
    assert "SHUTDOWN" in texts
    assert process.wait(TIMEOUT) == 0
    assert process.communicate()[1] == ""


def test_watch_ends_at_ctrl_c(watch):
    process, url = watch
    assert fetched(url)["events"]
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0
    assert process.communicate() == ("", "")


def test_watch_of_a_daemon_without_a_record_says_so(tmp_path):
    qmp = str(tmp_path / "q")
    daemon = start("serve", "--qmp", qmp, stderr=subprocess.PIPE)
    try:
        assert "listening" in daemon.stderr.readline()
        done = start("watch", qmp, "--web", stderr=subprocess.PIPE)
        text = done.communicate(timeout=TIMEOUT)[1]
    finally:
        daemon.kill()
        daemon.communicate()
    assert done.returncode == 1
    assert text == (
        f"blkxact: the daemon at '{qmp}' keeps no record; start it with --record FILE\n"
    )


def test_watch_says_whose_record_it_cannot_read(daemon, tmp_path):
    (tmp_path / "run.jsonl").unlink()
    done = start("watch", daemon[1], "--web", stderr=subprocess.PIPE)
    text = done.communicate(timeout=TIMEOUT)[1]
    assert (done.returncode, text) == (
        1,
        f"blkxact: the daemon's record '{tmp_path / 'run.jsonl'}' cannot be read here\n",
    )


# The page


class Asked(LiveServer):
    """A server that lets a test wait for the questions of a page."""

    def __init__(self, *words):
        self.questions = queue.Queue()
        super().__init__(*words)

    def news(self, position):
        self.questions.put(position)
        return super().news(position)


REPORT = """
<script>
new MutationObserver(() => {
  const state = document.getElementById("live").textContent;
  if (state === "" || state === "Live" || document.getElementById("result-of-test")) return;
  const out = document.createElement("pre");
  out.id = "result-of-test";
  out.textContent = JSON.stringify({
    state, events: events.length, dropped, listed: listed.length, selected, all: view.all,
    facts: document.getElementById("facts").textContent,
    jobs: things.jobs.length, ends: things.clients.map((one) => [one.start, one.end]),
    rows: rows.map((row) => row.label), error: window.failure || null,
    aria: list.querySelector("[role=option]").getAttribute("aria-setsize"),
    disks: document.querySelectorAll(".disk").length,
  });
  document.body.append(out);
}).observe(document.getElementById("live"), { childList: true });
</script></body>"""


def seen_in_browser(path, tmp_path, monkeypatch, steps, before=""):
    """Return what a live page reports of itself at its end; each step follows a question of it."""
    page = live.live_page

    def tested(title, address):
        text = page(title, address)
        head = "<script>window.onerror = (text) => { window.failure = text; };</script>"
        return text.replace("<style>", f"{head}<style>", 1).replace("</body>", before + REPORT)

    monkeypatch.setattr(live, "live_page", tested)
    server = Asked(path, "secret")
    browser = subprocess.Popen(
        [*chromium_command(tmp_path), "--virtual-time-budget=20000", "--dump-dom", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        server.questions.get(timeout=TIMEOUT)  # what is there already
        for step in steps:
            server.questions.get(timeout=TIMEOUT)
            step()
        server.over.set()
        text = browser.communicate(timeout=TIMEOUT)[0]
    finally:
        browser.kill()
        browser.wait()
        server.close()
    found = RESULT.search(text)
    assert found is not None, text[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@NEEDS_CHROMIUM
def test_page_takes_in_what_comes(path, tmp_path, writer, monkeypatch):
    found = seen_in_browser(
        path,
        tmp_path,
        monkeypatch,
        [
            lambda: writer.write(ClientConnected(1, "x"), 100_000),
            lambda: writer.write(ClientConnected(2, "x"), 200_000),
            lambda: writer.write(ClientGone(1), 300_000),
        ],
    )
    assert found["state"] == "The daemon has ended"
    assert (found["events"], found["listed"], found["aria"]) == (4, 4, "4")
    assert found["ends"] == [[100_000, 300_000], [200_000, 300_000]]
    assert found["rows"] == ["Failed (0)", "client 1", "client 2"]
    assert " · 4 events · no failure" in found["facts"]
    assert found["all"]
    assert found["error"] is None


@NEEDS_CHROMIUM
def test_page_holds_so_many_events_and_drops_the_older(path, tmp_path, monkeypatch):
    ManyEvents(path, 5000, random.Random(3)).make()
    script = live.live_page("", "")
    assert "const MOST_EVENTS = 200000;" in script
    page = live.live_page
    monkeypatch.setattr(
        live,
        "live_page",
        lambda *words: page(*words).replace("MOST_EVENTS = 200000;", "MOST_EVENTS = 3000;"),
    )
    found = seen_in_browser(path, tmp_path, monkeypatch, [])
    assert (found["events"], found["dropped"]) == (1501, 3499)
    assert "1,501 events (the last; 3,499 before them are dropped)" in found["facts"]
    assert found["disks"] == 4
    assert found["error"] is None


@NEEDS_CHROMIUM
def test_search_and_selection_stay_while_events_come(path, tmp_path, writer, monkeypatch):
    before = """<script>
      new MutationObserver((_, watching) => {
        if (events.length < 2) return;
        watching.disconnect();
        search.value = "connected"; applyFilter(); select(1);
      }).observe(document.getElementById("facts"), { childList: true });
    </script>"""
    writer.write(ClientConnected(1, "x"), 100)

    def more():
        for number in range(2, 10):
            writer.write(ClientConnected(number, "x"), 100 * number)
            writer.write(ClientGone(number), 100 * number + 50)

    found = seen_in_browser(path, tmp_path, monkeypatch, [more], before)
    assert (found["events"], found["listed"], found["selected"]) == (18, 9, 1)
    assert found["error"] is None
