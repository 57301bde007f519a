"""What a test leaves behind that is interrupted or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from .processes import runs

TIMEOUT = 60
SAMPLE = """
import subprocess
import sys
import threading


def test_that_waits(blkxact, tmp_path):
    blkxact.disk("vda", size="1M")
    blkxact.guest.write("vda", 0, b"x")
    program = blkxact.system() / "qemu-storage-daemon"
    words = ["--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c"]
    started = subprocess.Popen([program, *words], cwd=tmp_path)
    while not (tmp_path / "q").exists():
        threading.Event().wait(0.01)
    with blkxact.pause_at("command.execute"):
        print("started", started.pid, file=sys.stderr, flush=True)
        threading.Event().wait()
"""


@pytest.fixture
def directory(tmp_path_factory):
    """A directory with a short path."""
    return tmp_path_factory.mktemp("k")


@pytest.fixture
def interrupted(directory):
    """Run the sample, send its pytest a signal while it waits; return what is left."""
    (directory / "test_sample.py").write_text(SAMPLE)
    (directory / "tmp").mkdir()

    def run(number, base):
        tests = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-s", f"--basetemp={base}"),
                *("-p", "no:cacheprovider", "-p", "no:asyncio"),
            ],
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory / "tmp")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = ""
        while not said.startswith("started"):
            said = tests.stderr.readline()
            assert said, "it did not start"
        started = int(said.split()[1])
        tests.send_signal(number)
        tests.wait(TIMEOUT)
        tests.stderr.close()
        lives = runs(started)
        if lives:
            os.kill(started, signal.SIGKILL)
        return lives, tests.returncode, sorted(path.name for path in (directory / "tmp").iterdir())

    return run


def test_ctrl_c_leaves_the_images_of_the_test_and_nothing_else(interrupted, directory):
    assert interrupted(signal.SIGINT, directory / "b") == (False, 2, [])
    [test] = (directory / "b").glob("test_that_waits0")
    assert sorted(path.name for path in test.iterdir()) == ["q", "vda.qcow2"]


def test_kill_leaves_what_is_in_the_directory_of_the_test(interrupted, directory):
    lives, status, elsewhere = interrupted(signal.SIGKILL, directory / "b")
    assert (status, elsewhere) == (-signal.SIGKILL, [])
    assert lives, "what the tool has started goes on, as QEMU would"
    names = {path.name for path in (directory / "b" / "test_that_waits0").iterdir()}
    assert names == {".blkxact", "q", "vda.qcow2"}


def test_sockets_are_elsewhere_if_the_path_would_be_too_long(interrupted, directory):
    _, _, elsewhere = interrupted(signal.SIGKILL, directory / ("long" * 20))
    assert len(elsewhere) == 1
    assert elsewhere[0].startswith("blkxact-kit-")
