"""An emulator on a clock that a test moves: jobs and throttling wait for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.runtime.clock import STEPPED_EPOCH_US, SteppedClock, SystemClock
from blkxact.runtime.events import EventSink
from blkxact.testing.waiting import until, until_idle
from tests.system.conftest import MIB


async def backup_at_1_mib_a_second(emulator, clock):
    """Start a backup of 4 MiB that takes four seconds; return its job."""
    sink = EventSink(clock)
    sink.subscribe(emulator.events.append)
    emulator.use(BlockLayer(emulator.storage, clock, sink, rng=random.Random(1)))
    await emulator.create_disk("disk", 4 * MIB)
    await emulator.add_disk("disk")
    await emulator.qemu_io("disk", "write 0 4M")
    await emulator.execute(
        "drive-backup", device="disk", job_id="j", sync="full", target="/copy", speed=MIB
    )
    return emulator.layer.jobs["j"]


async def test_job_waits_for_its_speed_until_the_clock_is_moved(emulator):
    clock = SteppedClock()
    job = await backup_at_1_mib_a_second(emulator, clock)
    async with asyncio.timeout(60):
        await until(lambda: clock.next_timer_s() is not None)
        assert not job.completed
        while not job.completed:
            clock.advance(0.25)
            await asyncio.sleep(0)
        await job.wait()
    assert clock.monotonic() >= 3
    assert emulator.named("BLOCK_JOB_COMPLETED")[0]["len"] == 4 * MIB
    await emulator.layer.shutdown()


async def test_cancel_of_a_mirror_to_a_slow_target_waits_for_little(emulator):
    clock = SteppedClock()
    sink = EventSink(clock)
    sink.subscribe(emulator.events.append)
    emulator.use(BlockLayer(emulator.storage, clock, sink, rng=random.Random(1)))
    await emulator.create_disk("disk", 16 * MIB)
    await emulator.add_disk("disk")
    for offset in range(0, 16 * MIB, 128 << 10):
        await emulator.qemu_io("disk", f"write {offset} 64k")
    slow = {"driver": "null-co", "size": 16 * MIB, "latency_ns": 50_000_000}
    await emulator.execute("blockdev-add", node_name="slow", **slow)
    await emulator.execute("blockdev-mirror", job_id="j", device="disk", target="slow", sync="top")
    job = emulator.layer.jobs["j"]
    while job.current_progress < MIB:
        await pass_time(clock)
    started = clock.monotonic()
    await emulator.execute("block-job-cancel", device="j")
    while not emulator.named("BLOCK_JOB_CANCELLED"):
        await pass_time(clock)
    assert clock.monotonic() - started <= 1
    assert job.current_progress < 7 * MIB
    ending = asyncio.create_task(emulator.layer.shutdown())
    while not ending.done():
        await pass_time(clock)


async def pass_time(clock):
    clock.advance(0.05)
    await until_idle()


async def test_event_carries_the_time_of_the_stepped_clock(emulator):
    clock = SteppedClock()
    job = await backup_at_1_mib_a_second(emulator, clock)
    clock.advance(3600.25)
    job.set_speed(0)
    await job.wait()
    seconds, microseconds = divmod(STEPPED_EPOCH_US + 3_600_250_000, 1_000_000)
    assert emulator.events[-1]["timestamp"] == {"seconds": seconds, "microseconds": microseconds}
    await emulator.layer.shutdown()


async def test_job_goes_on_in_real_time_where_only_the_guests_clock_is_stepped(emulator):
    """As QEMU under qtest: its iotests step the guest's clock and wait for jobs."""
    stepped = SteppedClock()
    job = await backup_at_1_mib_a_second(emulator, SystemClock(virtual=stepped))
    job.set_speed(0)
    await job.wait()
    assert stepped.monotonic() == 0
    assert emulator.layer.throttle_groups.clock is stepped
    await emulator.layer.shutdown()


@pytest.mark.parametrize("clock", [SteppedClock(), SystemClock()])
def test_clock_without_one_of_its_own_is_the_guests_too(clock):
    assert clock.virtual is clock
