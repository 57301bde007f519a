"""``blkxact qmp`` and ``watch``: replies, events, jobs that end in every way, bad servers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading

import pytest
from cli_runs import TIMEOUT, assert_refused, blkxact

from blkxact.cli import client, qmp

MIB = 1 << 20
BACKUP = ("blockdev-backup", "sync=full", "job-id=j")
TO_TARGET = (*BACKUP, "device=disk", "target=target")
TO_BROKEN = (*BACKUP, "device=full", "target=broken")
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


def values(text):
    """Return the JSON values in ``text``."""
    decoder = json.JSONDecoder()
    found = []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@contextlib.contextmanager
def running(*words):
    """Run ``blkxact`` beside the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "blkxact", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_value(process):
    """Return the next JSON value that a process prints."""
    text = ""
    while True:
        line = process.stdout.readline()
        assert line, text
        text += line
        with contextlib.suppress(ValueError):
            return json.loads(text)


def backup(job, device, target, **more):
    data = {"job-id": job, "device": device, "target": target, "sync": "full", **more}
    return {"type": "blockdev-backup", "data": data}


def test_qmp_prints_the_reply_and_its_success_is_the_status(daemon):
    done = blkxact("qmp", daemon, "query-named-block-nodes", "flat=true")
    assert done.status == 0
    assert {"disk", "target"} <= {node["node-name"] for node in json.loads(done.out)["return"]}
    done = blkxact("qmp", daemon, "block-dirty-bitmap-add", "node=none", "name=b")
    assert done.status == 1
    assert json.loads(done.out)["error"]["class"] == "GenericError"


@pytest.mark.parametrize("name", ["2026", "true", "null", "NaN", "1e400", '{"a": 1}'])
def test_qmp_value_for_a_string_is_taken_as_it_is_written(daemon, name):
    done = blkxact("qmp", daemon, "block-dirty-bitmap-add", "node=disk", f"name={name}")
    assert done.status == 0, done
    done = blkxact("qmp", daemon, "query-named-block-nodes", "flat=true")
    (disk,) = (n for n in json.loads(done.out)["return"] if n["node-name"] == "disk")
    assert [bitmap["name"] for bitmap in disk["dirty-bitmaps"]] == [name]


def test_qmp_text_for_a_number_is_refused_once(daemon):
    words = ("block-dirty-bitmap-add", "node=disk", "name=2026", "persistent=7")
    done = blkxact("qmp", daemon, *words)
    assert done.status == 1
    error = json.loads(done.out)["error"]["desc"]
    assert error == "Invalid parameter type for 'persistent', expected: boolean"


def test_qmp_wait_event_prints_the_event(daemon):
    done = blkxact("qmp", daemon, "--wait-event", "BLOCK_JOB_COMPLETED", *TO_TARGET)
    assert done.status == 0, done
    reply, event = values(done.out)
    assert reply == {"return": {}}
    assert event["data"]["device"] == "j"


def test_qmp_wait_event_that_does_not_come_is_one_line(daemon):
    with running("qmp", daemon, "--wait-event", "STOP", "--timeout", "1", "query-jobs") as done:
        assert read_value(done) == {"return": []}
        assert done.stderr.read() == "blkxact: STOP did not come within 1 seconds\n"
        assert done.wait(TIMEOUT) == 1


def test_qmp_wait_event_ends_when_the_daemon_does(daemon):
    with running("qmp", daemon, "--wait-event", "STOP", "query-jobs") as waiting:
        assert read_value(waiting) == {"return": []}
        assert blkxact("qmp", daemon, "quit").status == 0
        assert waiting.stderr.read() == f"blkxact: '{daemon}' closed the connection\n"
        assert waiting.wait(TIMEOUT) == 1


def test_qmp_wait_job_completed_is_status_0(daemon):
    done = blkxact("qmp", daemon, "--wait-job", "j", *TO_TARGET)
    assert (done.status, done.err) == (0, "")
    reply, event = values(done.out)
    assert reply == {"return": {}}
    assert event["event"] == "BLOCK_JOB_COMPLETED"
    done = blkxact("qmp", daemon, "query-jobs")
    assert json.loads(done.out) == {"return": []}


def test_qmp_options_may_stand_anywhere(daemon):
    words = ["qmp", daemon, *TO_TARGET]
    for place in range(1, len(words) + 1):
        done = blkxact(*words[:place], "--timeout", "60", "--wait-job", "j", *words[place:])
        assert (done.status, done.err) == (0, ""), place


def test_qmp_wait_job_failed_is_status_1(daemon):
    done = blkxact("qmp", daemon, "--wait-job", "j", *TO_BROKEN)
    assert assert_refused(done) == "job 'j' failed: Input/output error"
    assert values(done.out)[1]["data"]["error"] == "Input/output error"


def test_qmp_wait_job_command_that_is_refused_does_not_wait(daemon):
    done = blkxact("qmp", daemon, "--wait-job", "j", *BACKUP, "device=none", "target=target")
    assert done.status == 1
    assert "error" in json.loads(done.out)


def test_qmp_wait_job_cancelled_is_status_1(daemon):
    with running("qmp", daemon, "--wait-job", "j", *TO_TARGET, f"speed={MIB}") as waiting:
        assert read_value(waiting) == {"return": {}}
        assert blkxact("qmp", daemon, "block-job-cancel", "device=j", "force=true").status == 0
        assert read_value(waiting)["event"] == "BLOCK_JOB_CANCELLED"
        assert waiting.stderr.read() == "blkxact: job 'j' was cancelled\n"
        assert waiting.wait(TIMEOUT) == 1


def test_qmp_wait_job_that_runs_already(daemon):
    assert blkxact("qmp", daemon, *TO_TARGET, f"speed={MIB}").status == 0
    with running("qmp", daemon, "--wait-job", "j", "query-jobs") as waiting:
        assert read_value(waiting)["return"][0]["id"] == "j"
        assert blkxact("qmp", daemon, "block-job-set-speed", "device=j", "speed=0").status == 0
        assert read_value(waiting)["event"] == "BLOCK_JOB_COMPLETED"
        assert waiting.wait(TIMEOUT) == 0


def test_qmp_wait_job_that_has_concluded_or_is_not_there(daemon):
    done = blkxact("qmp", daemon, "--wait-job", "j", *TO_BROKEN, "auto-dismiss=false")
    assert done.status == 1
    done = blkxact("qmp", daemon, "--wait-job", "j", "query-jobs")
    assert assert_refused(done) == "job 'j' failed: Input/output error"
    done = blkxact("qmp", daemon, "--wait-job", "none", "query-jobs")
    assert assert_refused(done) == "there is no job 'none'"


@pytest.mark.parametrize("directory", [".", "missing"])
def test_qmp_wait_job_without_events_of_block_jobs(daemon, directory):
    path = daemon.parent / directory / "new.raw"
    words = ("options.driver=file", f"options.filename={path}", "options.size=1048576")
    done = blkxact("qmp", daemon, "--wait-job", "c", "blockdev-create", "job-id=c", *words)
    assert values(done.out)[1]["status"] == "concluded"
    if directory == "missing":
        assert "job 'c' failed: Could not create" in assert_refused(done)
    else:
        assert (done.status, done.err) == (0, "")
        assert path.stat().st_size == MIB


def test_qmp_wait_transaction_reports_each_job(daemon):
    actions = [backup("a", "full", "broken"), backup("b", "disk", "target", speed=MIB)]
    group = {"completion-mode": "grouped"}
    text = json.dumps({"actions": actions, "properties": group})
    done = blkxact("qmp", daemon, "--wait-transaction", "transaction", text)
    line = assert_refused(done)
    assert line == "job 'a' failed: Input/output error; job 'b' was cancelled"
    text = json.dumps({"actions": [backup("b", "disk", "target")]})
    done = blkxact("qmp", daemon, "--wait-transaction", "transaction", text)
    assert (done.status, done.err) == (0, "")
    assert values(done.out)[1]["data"]["device"] == "b"


def test_qmp_wait_transaction_without_jobs_or_transaction(daemon):
    text = (
        '{"actions": [{"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b"}}]}'
    )
    done = blkxact("qmp", daemon, "--wait-transaction", "transaction", text)
    assert (done.status, done.err, values(done.out)) == (0, "", [{"return": {}}])
    assert_refused(blkxact("qmp", daemon, "--wait-transaction", "query-jobs"))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
def test_qmp_timeout_is_a_time(seconds):
    assert "seconds above 0" in assert_refused(blkxact("qmp", "s", f"--timeout={seconds}", "quit"))


@pytest.fixture
def serving(image_dir):
    """Start a server whose one client gets ``data``, a piece for each command; gives its path."""
    with contextlib.ExitStack() as stack:

        def serve(*data, hang_up=False):
            path = image_dir / "bad.sock"
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            listening.listen()
            over = threading.Event()

            def talk():
                connection, _ = listening.accept()
                with connection:
                    for number, piece in enumerate(data):
                        if number:
                            connection.recv(1 << 16)
                        connection.sendall(piece)
                    if not hang_up:
                        over.wait(TIMEOUT)

            thread = threading.Thread(target=talk)
            thread.start()
            stack.callback(thread.join)
            stack.callback(over.set)
            return path

        yield serve


CAPABLE = b'{"return": {}}\r\n'


@pytest.mark.parametrize("command", ["qmp", "watch"])
def test_server_that_does_not_greet_is_one_line(serving, monkeypatch, command):
    monkeypatch.setattr(client, "GREETING_SECONDS", 0.05)
    words = ["query-jobs"] if command == "qmp" else []
    done = blkxact(command, serving(), *words)
    assert "did not greet within 0.05 seconds" in assert_refused(done)


def test_qmp_server_that_does_not_reply_is_one_line(serving, monkeypatch):
    monkeypatch.setattr(qmp, "REPLY_SECONDS", 0.05)
    done = blkxact("qmp", serving(GREETING, CAPABLE), "query-jobs")
    assert assert_refused(done) == "the reply did not come within 0.05 seconds"


def test_qmp_server_that_does_not_read_is_one_line(serving):
    words = [f"a{number}={'x' * 100_000}" for number in range(40)]
    done = blkxact("qmp", serving(GREETING, CAPABLE), "--timeout", "0.3", "query-jobs", *words)
    assert assert_refused(done) == "the reply did not come within 0.3 seconds"


def test_qmp_quit_waits_until_the_server_has_closed_its_images(serving, monkeypatch):
    monkeypatch.setattr(qmp, "REPLY_SECONDS", 0.05)
    reply = b'{"return": {}, "id": "__qmp#00000"}\r\n'
    stays = blkxact("qmp", serving(GREETING, CAPABLE, reply), "quit")
    assert json.loads(stays.out) == {"return": {}}
    assert (stays.status, stays.err) == (
        1,
        "blkxact: the server's end did not come within 0.05 seconds\n",
    )


def test_qmp_quit_succeeds_when_the_server_ends(serving):
    reply = b'{"return": {}, "id": "__qmp#00000"}\r\n'
    done = blkxact("qmp", serving(GREETING, CAPABLE, reply, hang_up=True), "quit")
    assert (done.status, json.loads(done.out), done.err) == (0, {"return": {}}, "")


@pytest.mark.parametrize("command", ["qmp", "watch"])
@pytest.mark.parametrize("data", [[b"SSH-2.0\r\n"], [GREETING, b"[]\r\n"], [GREETING]])
def test_server_that_does_not_speak_qmp_is_one_line(serving, data, command):
    words = ["query-jobs"] if command == "qmp" else []
    line = assert_refused(blkxact(command, serving(*data, hang_up=True), *words))
    assert "cannot connect" in line


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "reply", [b"nonsense\r\n", b"[]\r\n", b'{"id": "__qmp#00000", "oh": 1}\r\n', b""]
)
def test_qmp_reply_that_is_not_qmp_is_one_line(serving, reply, early, caplog):
    pieces = (CAPABLE + reply,) if early else (CAPABLE, reply)
    done = blkxact("qmp", serving(GREETING, *pieces, hang_up=True), "query-jobs")
    assert_refused(done)
    assert caplog.text == ""


def test_watch_until_idle_reports_the_jobs_that_ran(daemon):
    assert blkxact("qmp", daemon, *TO_TARGET, f"speed={16 * MIB}").status == 0
    with running("watch", daemon, "--until-idle") as watch:
        assert watch.stdout.readline() == "  j: backup started\n"
        assert blkxact("qmp", daemon, "block-job-cancel", "device=j", "force=true").status == 0
        assert watch.stdout.read().startswith("  j: cancelled (")
        assert watch.wait(TIMEOUT) == 0


def test_watch_without_jobs_says_so(daemon):
    done = blkxact("watch", daemon, "--until-idle")
    assert (done.status, done.out, done.err) == (0, "  no job is running\n", "")


@pytest.mark.parametrize("times", range(3))
def test_watch_ends_with_the_daemon(daemon, times):
    with running("watch", daemon) as watch:
        assert watch.stdout.readline() == "  no job is running\n"
        for _ in range(times):
            assert blkxact("qmp", daemon, "--wait-job", "j", *TO_TARGET).status == 0
        assert blkxact("qmp", daemon, "quit").status == 0
        lines = watch.stdout.read().splitlines()
        assert lines[-1] == "  the daemon closed the connection"
        assert [line for line in lines if "completed" in line] == [
            f"  {name}: completed (64 MiB copied)" for name in ("j", "j (2)")[:times]
        ]
        assert watch.stderr.read() == ""
        assert watch.wait(TIMEOUT) == 0
