"""The demo keeps its promises, leaves images alone, and cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import TIMEOUT, blkxact, blkxact_process


@pytest.fixture
def own_tmp(image_dir, monkeypatch):
    """The directory in which the demo makes its own."""
    path = image_dir / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def test_demo_keeps_bitmaps_of_the_failed_run_and_restores_both_disks(own_tmp):
    done = blkxact_process("demo")
    assert (done.status, done.err) == (0, "")
    assert "transaction 'demo-try1' failed; bitmaps: disk0/nightly reclaimed" in done.out
    assert "transaction 'demo-try2' completed; bitmaps: disk0/nightly abdicated" in done.out
    assert done.out.count("identical") == 2
    assert list(own_tmp.iterdir()) == []


def test_demo_on_images_leaves_them_as_they_are(image_dir, own_tmp):
    image = image_dir / "a,b.qcow2"
    assert blkxact("image", "create", "-q", "-f", "qcow2", image, "8M").status == 0
    before = image.read_bytes()
    done = blkxact_process("demo", image, image, "--completion-mode=deferred", "-v", "--keep")
    assert (done.status, done.err) == (0, "")
    assert "overlay on a,b.qcow2" in done.out
    assert "prepare blockdev-backup" in done.out
    assert "bitmaps: disk0/nightly reclaimed, disk1/nightly reclaimed" in done.out
    assert image.read_bytes() == before
    (kept,) = own_tmp.iterdir()
    assert str(kept) in done.out
    assert (kept / "disk0.inc.qcow2").exists()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_demo_that_is_interrupted_leaves_nothing(own_tmp, number, status):
    with subprocess.Popen(
        [sys.executable, "-m", "blkxact", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as demo:
        assert demo.stdout
        assert demo.stderr
        for line in demo.stdout:
            if line.startswith("2. "):
                break
        demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(TIMEOUT) == status
        assert demo.stderr.read() == ""
    assert list(own_tmp.iterdir()) == []
    assert not serving(own_tmp)


def serving(directory: Path) -> list[str]:
    """Return the command lines of processes that have something of ``directory``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in words:
            found.append(words.decode(errors="replace"))
    return found
