"""One incremental backup by a whole emulator, for tests of what happens on its way."""

from __future__ import annotations

import asyncio

from .emulator import KIB, Emulator


async def backup_emulator() -> Emulator:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b")
    await guest.pwrite(0, b"x" * 64 * KIB)
    await emulator.create("/target.qcow2")
    await emulator.open("target", "/target.qcow2")
    return emulator


async def backup(emulator: Emulator, **more) -> dict:
    """Run an incremental backup; return the data of its last event."""
    more = {"device": "a", "target": "target", "sync": "incremental", "bitmap": "b"} | more
    ended = asyncio.Event()
    events = []

    def look(event):
        if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
            events.append(event["data"])
            ended.set()

    emulator.layer.events.subscribe(look)
    await emulator.execute("blockdev-backup", job_id="j", **more)
    async with asyncio.timeout(20):
        await ended.wait()
    return events[0]
