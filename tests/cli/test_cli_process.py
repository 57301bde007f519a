"""``blkxact`` as a process: errors in one line, PID files, the background, qmp and watch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import TIMEOUT, assert_refused, blkxact, blkxact_process

from blkxact.cli.background import PidFile
from blkxact.cli.errors import CliError

MIB = 1 << 20
TCP = ["--qmp", "tcp:127.0.0.1:0,server=on,wait=off"]


def test_version_and_help_are_printed():
    assert blkxact("--version").out.startswith("blkxact 0.")
    for words in ([], ["serve"], ["image"], ["image", "create"], ["qmp"], ["watch"], ["demo"]):
        done = blkxact(*words, "--help")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("usage: blkxact")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["serve", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["serve", *TCP, "--pidfile", "/nowhere/at/all"], "cannot create PID file: "),
        (
            ["serve", "--daemonize", *TCP, "--pidfile", "/nowhere/at/all"],
            "cannot create PID file: ",
        ),
        (["serve", "--qmp", "/nowhere/at/all"], "/nowhere/at/all"),
        (["serve", "--daemonize", "--qmp", "/nowhere/at/all"], "/nowhere/at/all"),
        (["serve", *TCP, "--blockdev", "driver=foo,node-name=x"], "does not accept value 'foo'"),
        (["qmp", "/nowhere", "quit"], "cannot connect to '/nowhere': No such file or directory"),
        (["watch", "/nowhere"], "cannot connect to '/nowhere': No such file or directory"),
        (["qmp", "localhost:1", "quit"], "cannot connect to 'localhost:1': Connection refused"),
        (["demo", "/nowhere"], "No such file or directory"),
    ],
)
def test_error_is_one_line_and_status_1(words, text):
    run = blkxact_process if "--daemonize" in words else blkxact
    assert text in assert_refused(run(*words))


def test_pidfile_holds_the_pid_and_goes_away(image_dir):
    path = image_dir / "pid"
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_pidfile_of_a_running_process_is_refused(image_dir):
    path = image_dir / "pid"
    holder = f"""
import sys
from blkxact.cli.background import PidFile
with PidFile({str(path)!r}):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CliError, match="cannot create PID file: Cannot lock pid file"):
            PidFile(str(path))
        assert path.read_text() == f"{process.pid}\n"
        process.stdin.close()
        assert process.wait(TIMEOUT) == 0


def test_pidfile_left_by_a_dead_process_is_taken_over(image_dir):
    path = image_dir / "pid"
    path.write_text("123456789 and more than a number\n")
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.fixture
def daemon(image_dir):
    """A daemon in the background with a disk of zeroes; gives the path of its socket."""
    socket, pidfile = image_dir / "qmp.sock", image_dir / "pid"
    done = blkxact_process(
        "serve", "--daemonize", "--pidfile", pidfile, "--qmp", f"unix:{socket},server=on,wait=off",
        "--blockdev", f"null-co,node-name=disk,size={64 * MIB},read-zeroes=on",
        "--blockdev", f"null-co,node-name=target,size={64 * MIB}",
    )  # fmt: skip
    assert (done.status, done.out, done.err) == (0, "", "")
    yield socket
    if pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        wait_until_gone(pidfile)


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_daemonize_returns_when_clients_can_connect_and_quit_ends_it(daemon):
    pidfile = daemon.with_name("pid")
    pid = int(pidfile.read_text())
    assert os.getpgid(pid) != os.getpgid(0)
    assert blkxact("qmp", daemon, "quit").status == 0
    wait_until_gone(pidfile)
    assert not daemon.exists()


def test_daemonize_a_signal_ends_it_and_the_pidfile_goes(daemon):
    pidfile = daemon.with_name("pid")
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    wait_until_gone(pidfile)
    assert not daemon.exists()


def test_qmp_prints_the_reply_and_its_verdict_is_the_status(daemon):
    done = blkxact("qmp", daemon, "query-named-block-nodes", "flat=true")
    assert done.status == 0
    assert {node["node-name"] for node in json.loads(done.out)["return"]} == {"disk", "target"}
    done = blkxact("qmp", daemon, "block-dirty-bitmap-add", "node=none", "name=b")
    assert done.status == 1
    assert json.loads(done.out)["error"]["class"] == "GenericError"


def test_qmp_wait_event_prints_the_event(daemon):
    done = blkxact(
        "qmp", daemon, "--wait-event", "BLOCK_JOB_COMPLETED", "--timeout", str(TIMEOUT),
        "blockdev-backup", "device=disk", "target=target", "sync=full", "job-id=j",
    )  # fmt: skip
    assert done.status == 0, done
    decoder = json.JSONDecoder()
    reply, end = decoder.raw_decode(done.out)
    assert reply == {"return": {}}
    event = json.loads(done.out[end:])
    assert event["data"]["device"] == "j"


def test_qmp_wait_event_that_does_not_come_is_one_line(daemon):
    done = blkxact("qmp", daemon, "--wait-event", "STOP", "--timeout", "0.01", "query-jobs")
    assert "STOP did not come within 0.01 seconds" in assert_refused(done)


def test_watch_until_idle_tells_of_the_jobs_that_ran(daemon):
    words = ("device=disk", "target=target", "sync=full", "job-id=j", f"speed={16 * MIB}")
    assert blkxact("qmp", daemon, "blockdev-backup", *words).status == 0
    with subprocess.Popen(
        [sys.executable, "-m", "blkxact", "watch", str(daemon), "--until-idle"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout
        assert watch.stdout.readline() == "  j: backup started\n"
        assert blkxact("qmp", daemon, "block-job-cancel", "device=j", "force=true").status == 0
        assert watch.stdout.read().startswith("  j: cancelled (")
        assert watch.wait(TIMEOUT) == 0


@pytest.mark.parametrize("verb", ["info", "check", "map", "compare", "resize", "snapshot"])
def test_image_verbs_do_not_load_the_schema(verb):
    program = (
        f"import sys, blkxact.cli.main, blkxact.cli.image_{verb}; print('pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
