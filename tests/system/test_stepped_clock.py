"""An emulator on a clock that a test moves: jobs and throttling wait for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.runtime.clock import STEPPED_EPOCH_US, SteppedClock, SystemClock
from blkxact.runtime.events import EventSink
from blkxact.testing.waiting import until
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
