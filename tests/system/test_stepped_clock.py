"""An emulator on a clock that a test moves: jobs and throttling wait for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.clock import STEPPED_EPOCH_US, SteppedClock, SystemClock
from blkxact.events import EventSink
from blkxact.testing.waiting import until
from tests.system.conftest import MIB


async def backup_at_1_mib_a_second(house, clock):
    """Start a backup of 4 MiB that takes four seconds; return its job."""
    sink = EventSink(clock)
    sink.subscribe(house.events.append)
    house.use(BlockLayer(house.storage, clock, sink, rng=random.Random(1)))
    await house.create_disk("disk", 4 * MIB)
    await house.add_disk("disk")
    await house.qemu_io("disk", "write 0 4M")
    await house.execute(
        "drive-backup", device="disk", job_id="j", sync="full", target="/copy", speed=MIB
    )
    return house.layer.jobs["j"]


async def test_job_waits_for_its_speed_until_the_clock_is_moved(house):
    clock = SteppedClock()
    job = await backup_at_1_mib_a_second(house, clock)
    async with asyncio.timeout(60):
        await until(lambda: clock.next_timer_s() is not None)
        assert not job.completed
        while not job.completed:
            clock.advance(0.25)
            await asyncio.sleep(0)
        await job.wait()
    assert clock.monotonic() >= 3
    assert house.named("BLOCK_JOB_COMPLETED")[0]["len"] == 4 * MIB
    await house.layer.shutdown()


async def test_event_carries_the_time_of_the_stepped_clock(house):
    clock = SteppedClock()
    job = await backup_at_1_mib_a_second(house, clock)
    clock.advance(3600.25)
    job.set_speed(0)
    await job.wait()
    seconds, microseconds = divmod(STEPPED_EPOCH_US + 3_600_250_000, 1_000_000)
    assert house.events[-1]["timestamp"] == {"seconds": seconds, "microseconds": microseconds}
    await house.layer.shutdown()


async def test_job_goes_on_in_real_time_where_only_the_guests_clock_is_stepped(house):
    """As QEMU under qtest: its iotests step the guest's clock and wait for jobs."""
    stepped = SteppedClock()
    job = await backup_at_1_mib_a_second(house, SystemClock(virtual=stepped))
    job.set_speed(0)
    await job.wait()
    assert stepped.monotonic() == 0
    assert house.layer.throttle_groups.clock is stepped
    await house.layer.shutdown()


@pytest.mark.parametrize("clock", [SteppedClock(), SystemClock()])
def test_clock_without_one_of_its_own_is_the_guests_too(clock):
    assert clock.virtual is clock
