"""``blkxact`` as a process: errors in one line, PID files, the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from cli_runs import TIMEOUT, assert_refused, blkxact, blkxact_process, wait_until_gone

from blkxact.cli.background import PidFile
from blkxact.cli.errors import CliError

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
        (["serve", "--frobnicate"], "unrecognized option '--frobnicate'"),
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
