"""The exit status of ``serve`` says whether the persistent bitmaps were stored."""

import subprocess
import sys
import time

import pytest

LIMIT_S = 60


@pytest.mark.parametrize(("size", "status"), [(0, 1), (1 << 20, 0)])
def test_serve_that_cannot_store_a_bitmap_exits_with_1(image_dir, size, status):
    blkxact = [sys.executable, "-m", "blkxact"]
    run = lambda *words: subprocess.run(  # noqa: E731
        [*blkxact, *words], cwd=image_dir, check=True, capture_output=True, timeout=LIMIT_S
    )
    run("image", "create", "-q", "-f", "qcow2", "a.qcow2", str(size))
    disk = "qcow2,node-name=d,file.driver=file,file.filename=a.qcow2"
    daemon = subprocess.Popen(
        [*blkxact, "serve", "--qmp", "q.sock", "--pidfile", "pid", "--blockdev", disk],
        cwd=image_dir, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + LIMIT_S
    while not (image_dir / "pid").exists():
        assert daemon.poll() is None
        assert time.monotonic() < end
    run("qmp", "q.sock", "block-dirty-bitmap-add", "node=d", "name=b", "persistent=true")
    run("qmp", "q.sock", "quit")
    _, text = daemon.communicate(timeout=LIMIT_S)
    assert daemon.returncode == status
    assert ("The disk has no bytes" in text) == (status == 1)
    run("image", "info", "a.qcow2")
