"""What ``serve`` reports: where it listens, why it cannot start, and why a job failed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from cli_runs import TIMEOUT, assert_refused, blkxact, blkxact_process

from blkxact.cli.serve_log import logging_to

MIB = 1 << 20
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
DISK = f"null-co,node-name=disk,size={MIB}"
BROKEN = (
    f"raw,node-name=broken,file.driver=blkdebug,file.image.driver=null-co,file.image.size={MIB},"
    "file.inject-error.0.event=write_aio,file.inject-error.0.errno=28"
)


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def serving(*words, stderr=subprocess.PIPE):
    command = [sys.executable, "-m", "blkxact", "serve", *map(str, words)]
    with subprocess.Popen(command, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(TIMEOUT) == 0


def test_serve_without_monitor_and_export_is_refused(image_dir):
    log = image_dir / "log"
    for words in ([], ["--blockdev", DISK], ["--daemonize"], ["-D", log]):
        line = assert_refused(blkxact("serve", *words))
        assert line == "no client could connect: neither a monitor (--qmp) nor an --export is given"
    assert not log.exists()


def test_serve_in_the_background_does_not_lose_what_verbose_reports(image_dir):
    done = blkxact("serve", "-v", "--daemonize", "--qmp", image_dir / "qmp")
    assert assert_refused(done) == "--daemonize with --verbose needs a --log-file"
    assert not (image_dir / "qmp").exists()


def test_serve_whose_log_cannot_be_opened_is_refused(image_dir):
    path = image_dir / "none" / "log"
    done = blkxact("serve", "-D", path, "--qmp", image_dir / "qmp")
    assert assert_refused(done) == f"cannot open log file '{path}': No such file or directory"


def test_serve_says_where_it_listens(image_dir):
    qmp, nbd = image_dir / "qmp", image_dir / "nbd"
    words = (
        "--blockdev", DISK, "--qmp", qmp, "--qmp", "tcp:127.0.0.1:0,server=on,wait=off",
        "--nbd-server", f"addr.type=unix,addr.path={nbd}", "--export", "nbd,id=e,node-name=disk",
    )  # fmt: skip
    with serving(*words) as process:
        lines = [process.stderr.readline() for _ in range(3)]
        assert lines[0] == f"blkxact: listening for QMP on unix:{qmp}\n"
        assert re.fullmatch(r"blkxact: listening for QMP on tcp:127\.0\.0\.1:[1-9]\d*\n", lines[1])
        assert lines[2] == f"blkxact: listening for NBD on unix:{nbd}\n"
        assert qmp.is_socket()


def test_serve_export_without_monitor_is_enough(image_dir):
    words = (
        "--blockdev", DISK, "--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=0",
        "--export", "nbd,id=e,node-name=disk",
    )  # fmt: skip
    with serving(*words) as process:
        line = process.stderr.readline()
    assert re.fullmatch(r"blkxact: listening for NBD on tcp:127\.0\.0\.1:[1-9]\d*\n", line)


def test_serve_log_file_of_a_daemon_has_times_and_the_reason_of_a_failure(image_dir):
    qmp, log, pidfile = image_dir / "qmp", image_dir / "log", image_dir / "pid"
    log.write_text("from an earlier run\n")
    done = blkxact_process(
        "serve", "-v", "--daemonize", "-D", log, "--pidfile", pidfile, "--qmp", qmp,
        "--blockdev", DISK, "--blockdev", BROKEN,
    )  # fmt: skip
    assert (done.status, done.out, done.err) == (0, "", "")
    blkxact(
        "qmp", qmp, "--wait-event", "BLOCK_JOB_COMPLETED", "--timeout", str(TIMEOUT),
        "blockdev-backup", "job-id=j", "device=disk", "target=broken", "sync=full",
    )  # fmt: skip
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    wait_until(lambda: not pidfile.exists())
    first, *lines = log.read_text().splitlines()
    assert first == "from an earlier run"
    assert all(re.match(f"{TIME} blkxact: ", line) for line in lines)
    said = [line.partition(" blkxact: ")[2] for line in lines]
    assert said[0] == f"listening for QMP on unix:{qmp}"
    failure = said.index("job j: write: No space left on device; action: report")
    assert said.index("job j: failed: No space left on device") > failure
    assert "shutting down: host-signal" in said


def test_serve_that_cannot_start_in_the_background_says_why_on_standard_error(image_dir):
    words = ("serve", "--daemonize", "-D", image_dir / "log", "--qmp", image_dir / "qmp")
    done = blkxact_process(*words, "--blockdev", f"file,node-name=x,filename={image_dir}/none")
    assert "No such file or directory" in assert_refused(done)


def test_serve_goes_on_when_its_log_is_full(image_dir):
    qmp = image_dir / "qmp"
    with serving("-v", "-D", "/dev/full", "--blockdev", DISK, "--qmp", qmp, stderr=None) as process:
        wait_until(qmp.is_socket)
        done = blkxact("qmp", qmp, "block-dirty-bitmap-add", "node=disk", "name=b")
        assert done.status == 0, done
        assert process.poll() is None


def test_message_with_a_line_break_stays_one_line():
    out = io.StringIO()
    with logging_to(out, program="blkxact", times=False, verbose=True):
        logging.getLogger("blkxact.test").debug("bitmap a\nb\x1b[1m")
    logging.getLogger("blkxact.test").warning("afterwards")
    assert out.getvalue() == "blkxact: bitmap a\\nb\\x1b[1m\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_steps_are_messages_only_if_verbose(verbose):
    out = io.StringIO()
    with logging_to(out, program="blkxact", times=False, verbose=verbose):
        logging.getLogger("blkxact.test").debug("a step")
    assert out.getvalue() == ("blkxact: a step\n" if verbose else "")
