"""The driver ``preallocate``: a file that grows in large steps, and has its size in the end."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError
from tests.emulator import MIB, Emulator

PREALLOCATE = {"driver": "preallocate", "node-name": "filter"}
FILE = {"driver": "file", "node-name": "file", "filename": "/a.qcow2"}


def options(**members: Any) -> dict[str, Any]:
    return (
        PREALLOCATE | {name.replace("_", "-"): it for name, it in members.items()} | {"file": FILE}
    )


def size(emulator: Emulator) -> int:
    return emulator.layer.find_node("file").driver.length


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    await emulator.create_disk("a")
    await emulator.execute("blockdev-add", driver="qcow2", node_name="disk", file=options())
    emulator.plug("disk")
    return emulator


async def test_a_write_past_the_end_allocates_ahead(emulator: Emulator) -> None:
    small = size(emulator)
    await emulator.qemu_io("guest-disk", "write 0 1M")
    grown = size(emulator)
    assert grown >= 128 * MIB
    assert grown % MIB == 0
    shown = emulator.layer.find_node("filter").length
    assert small + MIB <= shown < 2 * MIB
    await emulator.qemu_io("guest-disk", "write -P 7 1M 1M")
    assert size(emulator) == grown
    assert await emulator.qemu_io("guest-disk", "read -P 7 1M 1M")


async def test_what_was_not_needed_goes_at_the_end(emulator: Emulator) -> None:
    await emulator.qemu_io("guest-disk", "write 0 1M")
    end = emulator.layer.find_node("filter").length
    await emulator.layer.shutdown()
    file = await emulator.storage.open("/a.qcow2")
    assert end <= file.size() < 2 * MIB
    await file.close()


async def test_it_goes_when_the_disk_turns_read_only(emulator: Emulator) -> None:
    await emulator.qemu_io("guest-disk", "write 0 1M")
    await emulator.create("/top.qcow2")
    await emulator.execute(
        "blockdev-snapshot-sync",
        node_name="disk",
        snapshot_file="/over.qcow2",
        snapshot_node_name="over",
    )
    assert size(emulator) < 2 * MIB
    assert emulator.layer.find_node("disk").read_only


async def test_a_reopen_changes_the_step(emulator: Emulator) -> None:
    changed = {"driver": "qcow2", "node-name": "disk"}
    step = {"prealloc_size": 20 * MIB, "prealloc_align": 5 * MIB}
    await emulator.execute("blockdev-reopen", options=[changed | {"file": options(**step)}])
    await emulator.qemu_io("guest-disk", "write 0 1M")
    assert size(emulator) == 25 * MIB


async def test_an_alignment_of_no_whole_sectors_is_refused(emulator: Emulator) -> None:
    await emulator.create("/b.raw", "raw")
    other = {"driver": "file", "filename": "/b.raw"}
    with pytest.raises(QmpError, match="filter is not aligned to 512"):
        await emulator.execute(
            "blockdev-add", driver="preallocate", node_name="b", prealloc_align=100, file=other
        )
    assert all(node.node_name != "b" for node in emulator.layer.graph.nodes.values())
