"""A backup waits for its speed only while there is something left to copy."""

from __future__ import annotations

import asyncio

from blkxact.block.backend import BlockBackend
from tests.emulator import KIB, Emulator

CLUSTER = 64 * KIB
HELD = 1
"""A speed at which the second piece waits for hours."""


async def incremental(emulator: Emulator, *dirty: int) -> BlockBackend:
    """Start an incremental backup of the clusters ``dirty``, one byte a second."""
    guest = await emulator.disk("a")
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b")
    for cluster in dirty:
        await guest.pwrite(cluster * CLUSTER, b"x" * CLUSTER)
    await emulator.execute(
        "drive-backup", device="a", job_id="job", sync="incremental", bitmap="b",
        target="/copy", speed=HELD, filter_node_name="cbw",
    )  # fmt: skip
    return guest


async def test_backup_of_one_piece_ends_at_once_whatever_its_speed() -> None:
    emulator = Emulator()
    await incremental(emulator, 1)
    await emulator.jobs_over()
    assert not emulator.layer.jobs
    assert emulator.named("BLOCK_JOB_COMPLETED")[0]["offset"] == CLUSTER


async def test_backup_without_anything_to_copy_ends_at_once_whatever_its_speed() -> None:
    emulator = Emulator()
    await incremental(emulator)
    await emulator.jobs_over()
    assert not emulator.layer.jobs


async def test_backup_ends_when_the_guest_has_overwritten_all_that_was_left() -> None:
    emulator = Emulator()
    guest = await incremental(emulator, 1, 3)
    job = emulator.layer.jobs["job"]
    copied = asyncio.Event()
    progressed = job.copy.progress

    def report(done: int, remaining: int) -> None:
        progressed(done, remaining)
        copied.set()

    job.copy.progress = report
    await asyncio.wait_for(copied.wait(), 60)
    assert not job.completed
    await guest.pwrite(3 * CLUSTER, b"y" * CLUSTER)
    await emulator.jobs_over()
    assert emulator.named("BLOCK_JOB_COMPLETED")[0]["offset"] == 2 * CLUSTER
