"""One point in time: the guest's requests are drained before the first prepare, and held until
after the last clean."""

from __future__ import annotations

import asyncio

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.storage.file_hints import FileHints
from blkxact.testing.memory_file import MemoryFile
from blkxact.testing.waiting import until, until_idle

from .conftest import Emulator

ADD = {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b0"}}
BACKUP = {
    "type": "drive-backup",
    "data": {"device": "other", "job-id": "j", "sync": "full", "target": "/full.qcow2"},
}


def plug_guest(emulator: Emulator) -> BlockBackend:
    guest = BlockBackend(
        emulator.layer.graph,
        perm=Permission.CONSISTENT_READ | Permission.WRITE,
        shared=Permission.ALL,
    )
    guest.insert(emulator.layer.find_node("disk"))
    return guest


async def test_transaction_waits_for_a_guest_write_under_way(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    debug = {
        "driver": "blkdebug",
        "node-name": "debug",
        "image": {"driver": "file", "filename": "/disk.qcow2"},
    }
    await emulator.execute("blockdev-add", driver="qcow2", node_name="disk", file=debug)
    guest = plug_guest(emulator)
    driver = emulator.layer.find_node("debug").driver
    driver.rules.add_breakpoint("write_aio", "held")  # type: ignore[attr-defined]
    write = asyncio.create_task(guest.pwrite(0, bytes(65536)))
    await until(lambda: driver.rules.is_suspended("held"))  # type: ignore[attr-defined]
    steps: list[str] = []
    emulator.layer.trace = lambda event: steps.append(str(event))
    transaction = asyncio.create_task(emulator.execute("transaction", actions=[ADD]))
    await until(lambda: guest.quiesced > 0)
    await until_idle()
    assert not [step for step in steps if step.startswith("prepare")]
    driver.rules.resume("held")  # type: ignore[attr-defined]
    await transaction
    assert write.done()
    assert emulator.bitmaps("disk")["b0"]["count"] == 0, "the write came before the point in time"
    guest.close()
    await emulator.layer.shutdown()


async def test_guest_write_that_comes_during_a_transaction_waits_for_its_last_clean(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("disk", "other"):
        await emulator.create_disk(name)
        await emulator.add_disk(name)
    guest = plug_guest(emulator)
    steps: list[str] = []
    emulator.layer.trace = lambda event: steps.append(str(event))
    preparing, go_on = asyncio.Event(), asyncio.Event()
    create = emulator.storage.create

    async def slow_create(path: str, hints: FileHints) -> MemoryFile:
        preparing.set()
        await go_on.wait()
        return await create(path, hints)

    monkeypatch.setattr(emulator.storage, "create", slow_create)
    transaction = asyncio.create_task(emulator.execute("transaction", actions=[BACKUP, ADD]))
    await until(preparing.is_set)

    async def write() -> None:
        await guest.pwrite(0, b"\1" * 65536)
        steps.append("written")

    writing = asyncio.create_task(write())
    await until_idle()
    go_on.set()
    await transaction
    await writing
    cleans = [index for index, step in enumerate(steps) if step.startswith("clean")]
    assert steps.index("written") > max(cleans)
    assert emulator.bitmaps("disk")["b0"]["count"] == 65536, (
        "the write came after the point in time"
    )
    await emulator.jobs_over()
    guest.close()
    await emulator.layer.shutdown()
