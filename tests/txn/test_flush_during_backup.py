"""The guest's flush has to reach the image also when a job has just put a filter above it."""

from __future__ import annotations

from tests.emulator import KIB, Emulator


async def test_flush_through_new_filter_makes_earlier_writes_durable() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 64 * KIB)
    await emulator.execute(
        "drive-backup", device="a", job_id="job", sync="full", target="/copy", speed=1
    )
    await guest.flush()
    again = Emulator(emulator.storage.killed())
    await emulator.layer.shutdown()
    await again.open("a", "/a.qcow2")
    assert await again.layer.graph.nodes["a"].pread(0, 64 * KIB) == b"x" * 64 * KIB
    await again.layer.shutdown()


async def test_end_of_backup_leaves_the_source_as_it_is_flushed_or_not() -> None:
    """A rule of blkdebug for flush_to_disk must not meet a flush that nobody asked for."""
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 64 * KIB)
    source = emulator.layer.graph.nodes["a"]
    flushes = []
    flush = source.driver.flush

    async def counted() -> None:
        flushes.append(None)
        await flush()

    source.driver.flush = counted  # type: ignore[method-assign]
    await emulator.execute("drive-backup", device="a", job_id="job", sync="full", target="/copy")
    await emulator.jobs_over()
    await emulator.layer.blockdev.close_unused()
    assert flushes == []
    await guest.flush()
    assert flushes == [None]
    await emulator.layer.shutdown()
