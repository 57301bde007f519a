"""Backups that discard in their source what they have copied (``discard-source``, QEMU 9.1)."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.block.types import Status
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from tests.emulator import Emulator

MIB = 1 << 20
SIZE = 4 * MIB
BACKUP = {"target": "target", "sync": "full", "job-id": "j", "discard-source": True}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("10.0")
    for name in ("disk", "target", "temp"):
        await emulator.create_disk(name, SIZE)
    await emulator.add_disk("target")
    yield emulator
    await emulator.layer.shutdown()


async def backup(emulator: Emulator, device: str, **more: Any) -> dict[str, Any]:
    """Make a backup to its end; return what BLOCK_JOB_COMPLETED said."""
    await emulator.execute_wire("blockdev-backup", BACKUP | {"device": device} | more)
    await emulator.jobs_over()
    return emulator.named("BLOCK_JOB_COMPLETED")[-1]


async def read(emulator: Emulator, node: str, offset: int, length: int) -> bytes:
    return bytes(await emulator.layer.find_node(node).pread(offset, length))


async def holds(emulator: Emulator, node: str) -> int:
    """Return how many bytes of data a node's own layer holds."""
    extents = await emulator.layer.find_node(node).block_status(0, SIZE)
    return sum(extent.length for extent in extents if extent.status & Status.DATA)


async def fleece(emulator: Emulator) -> None:
    """Keep a point in time of ``disk`` below ``cbw``, which ``access`` shows."""
    await emulator.add_disk("disk")
    await emulator.add_disk("temp", discard="unmap")
    await emulator.qemu_io("disk", "write -P 1 0 4M")
    cbw = {"driver": "copy-before-write", "node-name": "cbw", "file": "disk", "target": "temp"}
    await emulator.execute_wire("blockdev-add", cbw)
    access = {"driver": "snapshot-access", "node-name": "access", "file": "cbw"}
    await emulator.execute_wire("blockdev-add", access | {"discard": "unmap"})


@pytest.mark.parametrize(("discard", "kept"), [("unmap", 0), ("ignore", MIB)])
async def test_source_is_discarded_where_its_node_lets_discards_through(
    emulator: Emulator, discard: str, kept: int
) -> None:
    await emulator.add_disk("disk", discard=discard)
    await emulator.qemu_io("disk", "write -P 1 0 1M")
    assert "error" not in await backup(emulator, "disk")
    assert await read(emulator, "target", 0, MIB) == b"\1" * MIB
    assert await holds(emulator, "disk") == kept


async def test_copies_of_the_guest_writes_are_given_up_when_they_are_backed_up(
    emulator: Emulator,
) -> None:
    """The scratch image of a point in time shrinks while the backup makes progress."""
    await fleece(emulator)
    await emulator.qemu_io("cbw", "write -P 2 0 1M")
    assert await holds(emulator, "temp") == MIB
    assert "error" not in await backup(emulator, "access")
    assert await read(emulator, "target", 0, SIZE) == b"\1" * SIZE
    assert await holds(emulator, "temp") == 0
    with pytest.raises(PermissionError):
        await read(emulator, "access", 0, MIB)


async def test_what_was_backed_up_is_not_kept_any_more(emulator: Emulator) -> None:
    await fleece(emulator)
    await backup(emulator, "access")
    await emulator.qemu_io("cbw", "write -P 2 0 1M")
    assert await holds(emulator, "temp") == 0


async def test_what_was_not_copied_is_not_discarded(emulator: Emulator) -> None:
    await fleece(emulator)
    await emulator.qemu_io("cbw", "write -P 2 0 4M")
    target = emulator.layer.find_node("target").address
    fault = Fault("request.write*", errno.EIO, {"node": target}, 2 * MIB, 3 * MIB)
    emulator.storage.faults.add(fault)
    assert "error" in await backup(emulator, "access")
    assert await read(emulator, "access", 2 * MIB, MIB) == b"\1" * MIB


async def test_layers_below_do_not_come_to_light_or_vanish(emulator: Emulator) -> None:
    """With ``sync: top`` only what the top layer holds is copied, and discarded."""
    await emulator.add_disk("disk")
    await emulator.qemu_io("disk", "write -P 1 0 4M")
    await emulator.create_disk("over", SIZE)
    await emulator.add_disk("over", backing="disk", discard="unmap")
    await emulator.qemu_io("over", "write -P 2 1M 1M")
    await backup(emulator, "over", sync="top")
    assert await read(emulator, "target", MIB, MIB) == b"\2" * MIB
    assert await read(emulator, "over", 0, MIB) == b"\1" * MIB
    assert await read(emulator, "over", 2 * MIB, MIB) == b"\1" * MIB


async def test_discard_that_fails_does_not_matter(emulator: Emulator) -> None:
    await emulator.add_disk("disk", discard="unmap")
    await emulator.qemu_io("disk", "write -P 1 0 1M")
    disk = emulator.layer.find_node("disk").address
    emulator.storage.faults.add(Fault("request.discard", errno.EIO, {"node": disk}))
    assert "error" not in await backup(emulator, "disk")
    assert await holds(emulator, "disk") == MIB


async def test_write_of_the_guest_is_not_discarded(emulator: Emulator) -> None:
    """A guest's write waits until the copy made before it, and its discard, are over."""
    await emulator.add_disk("disk", discard="unmap")
    guest = emulator.plug("disk")
    await guest.pwrite(0, b"\1" * MIB)
    await emulator.execute_wire("blockdev-backup", BACKUP | {"device": "disk", "sync": "none"})
    await guest.pwrite(0, b"\2" * MIB)
    await emulator.execute("block-job-cancel", device="j")
    await emulator.jobs_over()
    assert await guest.pread(0, MIB) == b"\2" * MIB
    assert await read(emulator, "target", 0, MIB) == b"\1" * MIB


async def test_drive_backup_discards_too(emulator: Emulator) -> None:
    await emulator.add_disk("disk", discard="unmap")
    await emulator.qemu_io("disk", "write -P 1 0 1M")
    emulator.plug("disk")
    await emulator.execute_wire(
        "drive-backup", BACKUP | {"device": "disk", "target": "/new.qcow2", "format": "qcow2"}
    )
    await emulator.jobs_over()
    assert await holds(emulator, "disk") == 0


async def test_source_must_be_writable(emulator: Emulator) -> None:
    """The texts are those of QEMU 10.0: a node without parents, and a backing file."""
    await emulator.add_disk("disk", read_only=True)
    with pytest.raises(QmpError, match=r"^Block node is read-only$"):
        await backup(emulator, "disk")
    await emulator.create_disk("over", SIZE)
    await emulator.add_disk("over", backing="disk")
    with pytest.raises(QmpError, match=r"^Could not replace node: Block node is read-only$"):
        await backup(emulator, "disk")
    assert await emulator.execute("query-jobs") == []


@pytest.mark.parametrize("command", ["blockdev-backup", "drive-backup"])
async def test_older_release_does_not_have_it(emulator: Emulator, command: str) -> None:
    emulator.emulate("8.2")
    with pytest.raises(QmpError, match=r"^Parameter 'discard-source' is unexpected$"):
        await emulator.execute_wire(command, BACKUP | {"device": "disk"})
