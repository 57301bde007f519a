"""The drivers ``null-co`` and ``null-aio``."""

from __future__ import annotations

import pytest

from blkxact.block.types import Status
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError
from tests.environment import environment


class NotingClock:
    """A clock on which sleeping takes no time and is noted."""

    def __init__(self):
        self.slept = []

    def realtime_us(self):
        return 0

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        self.slept.append(seconds)


async def null(clock=None, driver="null-co", **options):
    blockdev = Blockdev(environment(clock=clock or NotingClock()))
    return await blockdev.add({"driver": driver, "node-name": "n", **options})


@pytest.mark.parametrize("driver", ["null-co", "null-aio"])
async def test_null_is_a_gibibyte_that_forgets(driver):
    node = await null(driver=driver)
    await node.pwrite(0, b"x")
    await node.pwrite_zeroes(0, 512)
    await node.flush()
    assert (node.length, await node.pread(0, 3)) == (1 << 30, bytes(3))
    assert (node.filename, node.driver.allocated_size()) == (f"{driver}://", 0)


async def test_null_of_another_size_has_no_short_name():
    node = await null(size=1024)
    assert (node.length, node.driver.filename) == (1024, "")
    assert (await null(size=0)).length == 0


@pytest.mark.parametrize(
    ("read_zeroes", "known"), [(True, Status.ZERO | Status.ALLOCATED), (False, Status.NONE)]
)
async def test_null_promises_zeroes_only_when_told(read_zeroes, known):
    node = await null(**{"read-zeroes": read_zeroes})
    (extent,) = await node.block_status(0, 1 << 30)
    assert (extent.length, extent.status) == (1 << 30, known)


async def test_null_takes_its_latency_for_each_request():
    clock = NotingClock()
    node = await null(clock, **{"latency-ns": 5_000_000})
    await node.pwrite(0, b"x")
    await node.pread(0, 1)
    await node.flush()
    assert clock.slept == [0.005] * 3


async def test_null_with_negative_latency_is_refused():
    with pytest.raises(QmpError, match=r"^latency-ns is invalid$"):
        await null(**{"latency-ns": -1})
