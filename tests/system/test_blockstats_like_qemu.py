"""``query-blockstats`` and what nodes show of those below them, beside QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blkxact.storage.os_file import OsStorage
from tests.qapi.oracle import ask_qemu

from .conftest import MIB, Emulator

pytestmark = pytest.mark.qemu

MACHINE = ("-accel", "tcg", "-S")
Step = tuple[str, dict[str, Any]]


def file(name: str, path: str) -> dict[str, Any]:
    return {"driver": "file", "node-name": name, "filename": path, "discard": "unmap"}


def qemu_io(line: str) -> Step:
    return "human-monitor-command", {"command-line": f'qemu-io -d w "{line}"'}


STATS: list[Step] = [
    ("query-blockstats", {}),
    ("query-blockstats", {"query-nodes": True}),
]
COUNTED = [
    ("blockdev-add", file("a", "a.raw")),
    ("device_add", {"driver": "virtio-scsi-pci", "id": "bus0"}),
    ("device_add", {"driver": "scsi-hd", "id": "w", "drive": "a"}),
    ("device_add", {"driver": "scsi-cd", "id": "cd", "account-failed": "off"}),
    *STATS,
    *map(qemu_io, ("write 0 4096", "read 0 4096", "flush", "discard 0 65536", "write -z 0 65536")),
    *STATS,
    *map(qemu_io, ("aio_write 0 4k", "aio_read -q 0 512", "aio_read 0 512", "aio_flush")),
    *map(qemu_io, ("aio_read 10M 512", "aio_write 10M 512", "aio_write -z 0 4k", "aio_flush")),
    *map(qemu_io, ("aio_read -i 0 512", "aio_write -i 0 512", "discard 1M 64k")),
    *STATS,
]
SHOWN = [
    ("blockdev-add", {"driver": "qcow2", "node-name": "q", "file": file("f", "q.qcow2")}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n", "size": MIB, "read-zeroes": True}),
    ("object-add", {"qom-type": "throttle-group", "id": "g"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r", "file": "q"}),
    (
        "blockdev-add",
        {"driver": "throttle", "node-name": "th", "file": "r", "throttle-group": "g"},
    ),
    (
        "blockdev-add",
        {"driver": "copy-before-write", "node-name": "c", "file": "th", "target": "n"},
    ),
    ("blockdev-add", {"driver": "null-co", "node-name": "m", "size": MIB, "read-zeroes": True}),
    ("blockdev-add", {"driver": "copy-before-write", "node-name": "o", "file": "m", "target": "m"}),
    ("query-named-block-nodes", {"flat": True}),
    ("blockdev-add", {"driver": "blkdebug", "node-name": "d", "image": "c"}),
    ("blockdev-add", {"driver": "raw", "node-name": "top", "file": "d"}),
    ("query-named-block-nodes", {"flat": True}),
]


def bitmap(node: str, name: str, **members: Any) -> Step:
    return "block-dirty-bitmap-add", {"node": node, "name": name, **members}


ORDER = [
    ("blockdev-add", {"driver": "null-co", "node-name": "n", "size": MIB, "read-zeroes": True}),
    ("blockdev-add", {"driver": "null-co", "node-name": "t", "size": MIB}),
    *(bitmap("n", name) for name in ("x", "y")),
    (
        "blockdev-backup",
        {
            "device": "n",
            "target": "t",
            "job-id": "j",
            "filter-node-name": "f",
            "sync": "incremental",
            "bitmap": "x",
            "auto-finalize": False,
        },
    ),
    bitmap("n", "z", disabled=True),
    bitmap("t", "of-t"),
    ("query-named-block-nodes", {"flat": True}),
]
NOT_COMPARED = frozenset({"file", "filename", "child"})


def without_times(reply: Any) -> Any:
    """Return a reply with every time that has passed as True, and without names of files."""
    if isinstance(reply, list):
        return [without_times(item) for item in reply]
    if not isinstance(reply, dict):
        return reply
    return {
        name: value > 0 if name.endswith("_time_ns") else without_times(value)
        for name, value in reply.items()
        if name not in NOT_COMPARED
    }


@pytest.mark.parametrize("script", [COUNTED, SHOWN, ORDER])
async def test_statistics_and_nodes_are_qemus(
    script: list[Step], image_dir: Path, monkeypatch: pytest.MonkeyPatch, qemu_img: Any
) -> None:
    monkeypatch.chdir(image_dir)
    qemu_img("create", "-q", "-f", "raw", "a.raw", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "q.qcow2", "1M")
    qemu_img("snapshot", "-c", "one", "q.qcow2")
    theirs = ask_qemu(script, MACHINE)
    emulator = Emulator(OsStorage())
    for (name, arguments), reply in zip(script, theirs, strict=True):
        ours = await emulator.execute_wire(name, arguments)
        if name.startswith("query-"):
            assert without_times(ours) == without_times(reply["return"]), name
        await emulator.layer.guest.idle()  # QEMU's requests are over when the next command comes
    await emulator.layer.shutdown()
