"""An image that another process uses: what is refused, in which words, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import blkxact, blkxact_process

from blkxact.storage.locks import ALL_PERMISSIONS, ImageLock

WRITE = 2
"""BLK_PERM_WRITE, as a bit of the lock bytes."""

REFUSED = [
    (("info", "x.qcow2"), "Could not open 'x.qcow2': {shared}"),
    (("check", "x.qcow2"), "Could not open 'x.qcow2': {shared}"),
    (("check", "-r", "all", "x.qcow2"), "Could not open 'x.qcow2': {write}"),
    (("resize", "x.qcow2", "2M"), "Could not open 'x.qcow2': {write}"),
    (("create", "-q", "-f", "qcow2", "x.qcow2", "1M"), "x.qcow2: {write}"),
    (("create", "-q", "-f", "raw", "x.qcow2", "1M"), "x.qcow2: {write}"),
    (("convert", "x.qcow2", "out"), "Could not open 'x.qcow2': {shared}"),
    (("convert", "-n", "-O", "qcow2", "s.qcow2", "x.qcow2"), "Could not open 'x.qcow2': {write}"),
    (
        ("convert", "-O", "qcow2", "s.qcow2", "x.qcow2"),
        "x.qcow2: error while converting qcow2: {write}",
    ),
    (("map", "o.qcow2"), "Could not open 'o.qcow2': Could not open backing file: {shared}"),
    (("bitmap", "--add", "x.qcow2", "b"), "Could not open 'x.qcow2': {write}"),
    (("snapshot", "-c", "s", "x.qcow2"), "Could not open 'x.qcow2': {write}"),
]


@pytest.fixture
def used(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``x.qcow2`` with another user, who writes; ``s.qcow2`` and the overlay ``o.qcow2``."""
    monkeypatch.chdir(image_dir)
    for name in ("x.qcow2", "s.qcow2"):
        assert blkxact("image", "create", "-q", "-f", "qcow2", name, "1M").status == 0
    overlay = ("-b", "x.qcow2", "-F", "qcow2", "o.qcow2")
    assert blkxact("image", "create", "-q", "-f", "qcow2", *overlay).status == 0
    with Path("x.qcow2").open("r+b") as file:
        ImageLock(file.fileno(), "x.qcow2").change(perm=WRITE, shared=ALL_PERMISSIONS & ~WRITE)
        yield image_dir / "x.qcow2"


@pytest.mark.parametrize(
    ("words", "complaint"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED]
)
def test_an_image_in_use_is_refused_with_a_hint_and_left_alone(used, words, complaint):
    before = used.read_bytes()
    done = blkxact("image", *words)
    complaint = complaint.format(
        shared='Failed to get shared "write" lock', write='Failed to get "write" lock'
    )
    hint = "Is another process using the image [x.qcow2]?"
    assert done.err.splitlines() == [f"blkxact: {complaint}", hint]
    assert done.status == 1
    assert used.read_bytes() == before


@pytest.mark.usefixtures("used")
def test_an_overlay_of_an_image_in_use_can_be_made():
    done = blkxact("image", "create", "-f", "qcow2", "-b", "x.qcow2", "-F", "qcow2", "n.qcow2")
    assert (done.status, done.err) == (0, "")
    assert "size=1048576" in done.out


@pytest.mark.usefixtures("used")
def test_a_daemon_that_cannot_have_its_disk_ends_with_the_hint():
    node = "driver=qcow2,node-name=n,file.driver=file,file.filename=x.qcow2"
    done = blkxact_process("system", "-qmp", "unix:s,server=on,wait=off", "-blockdev", node)
    assert done.err.splitlines()[-2:] == [
        f'blkxact: -blockdev {node}: Failed to get "write" lock',
        "Is another process using the image [x.qcow2]?",
    ]
    assert done.status == 1
