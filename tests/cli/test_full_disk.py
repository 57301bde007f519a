"""Commands on an image whose file cannot grow (RLIMIT_FSIZE): its bitmaps are as they were."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import blkxact
from image_tools import image, image_json

LIMIT_S = 60


def full(path, *words):
    """Return a command of blkxact that cannot let files grow past the length of ``path``."""
    kib = -(-path.stat().st_size // 1024)
    limited = f'ulimit -f {kib}; exec "$@"'
    return ["bash", "-c", limited, "-", sys.executable, "-m", "blkxact", *map(str, words)]


def bitmaps(path):
    specific = image_json("info", path)["format-specific"]["data"]
    return {b["name"]: b["flags"] for b in specific.get("bitmaps", [])}


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (("bitmap", "--clear", "IMAGE", "other"), None),
        (("bitmap", "--disable", "IMAGE", "other"), {"keep": ["auto"], "other": []}),
        (("bitmap", "--merge", "keep", "IMAGE", "other"), None),
        (("bitmap", "--remove", "IMAGE", "other"), {"keep": ["auto"]}),
        (
            ("bitmap", "--add", "-g", "4k", "IMAGE", "new"),
            {"keep": ["auto"], "other": ["auto"], "new": ["auto"]},
        ),
        (("bitmap", "--remove", "--add", "-g", "1M", "IMAGE", "other"), None),
        (("snapshot", "-c", "s", "IMAGE"), None),
        (("resize", "-q", "IMAGE", "256G"), None),
    ],
)
def test_command_on_a_full_disk_leaves_every_bitmap_usable(image_dir, words, after):
    path = image_dir / "b.qcow2"
    image("create", "-q", "-f", "qcow2", path, "64G")
    for name in ("keep", "other"):
        image("bitmap", "--add", "-g", "4k", path, name)
    command = full(path, "image", *(path if word == "IMAGE" else word for word in words))
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert "Traceback" not in done.stderr
    flags = {"keep": ["auto"], "other": ["auto"]}
    if done.returncode == 0 and after is not None:
        flags = after
    assert bitmaps(path) == flags, done.stderr
    checked = blkxact("image", "check", path)
    assert checked.status in (0, 3), checked


@pytest.mark.parametrize("daemonize", [False, True])
def test_serve_on_a_full_disk_keeps_the_bitmaps_that_have_room(image_dir, daemonize):
    path = image_dir / "a.qcow2"
    image("create", "-q", "-f", "qcow2", path, "64G")
    image("bitmap", "--add", "-g", "64k", path, "keep")
    disk = "qcow2,node-name=d,file.driver=file,file.filename=a.qcow2"
    words = ["serve", "--qmp", "q.sock", "--pidfile", "pid", "--blockdev", disk]
    daemon = subprocess.Popen(
        full(path, *words, *(["--daemonize"] if daemonize else [])),
        cwd=image_dir, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + LIMIT_S
    while not (image_dir / "pid").exists() or not (image_dir / "pid").read_text().strip():
        assert time.monotonic() < end
        assert daemonize or daemon.poll() is None
    pid = int((image_dir / "pid").read_text())
    add = ("qmp", "q.sock", "block-dirty-bitmap-add", "node=d", "name=new", "persistent=true")
    for words in (add, ("qmp", "q.sock", "quit")):
        subprocess.run(
            [sys.executable, "-m", "blkxact", *words],
            cwd=image_dir, check=True, capture_output=True, timeout=LIMIT_S,
        )  # fmt: skip
    while (image_dir / "pid").exists() or (Path(f"/proc/{pid}").exists() and daemonize):
        assert time.monotonic() < end
    if not daemonize:
        _, text = daemon.communicate(timeout=LIMIT_S)
        assert (daemon.returncode, "closing node 'd'" in text) == (1, True), text
    else:
        daemon.communicate(timeout=LIMIT_S)
    assert bitmaps(path) == {"keep": ["auto"]}
