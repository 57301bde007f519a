"""snapshot-access: what a reader of a point in time sees, and who waits for whom."""

from __future__ import annotations

import asyncio
import errno

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.block.backend import BlockBackend
from blkxact.block.drain import drained
from blkxact.block.types import Extent, Permission, Status
from blkxact.testing.waiting import until_idle
from tests.memory_disks import Gate, failing

from .fleecing import CLUSTER, LENGTH, Fleecing

OLD = b"o" * LENGTH


async def opened(**options) -> Fleecing:
    house = Fleecing()
    house.source.fill(0, OLD)
    return await house.open(**options)


async def denied(request) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        await request
    assert caught.value.errno == errno.EACCES


async def test_reader_sees_old_bytes_across_what_was_overwritten():
    house = await opened()
    await house.guest.pwrite(CLUSTER + 7, b"new")
    await house.guest.pwrite_zeroes(4 * CLUSTER, CLUSTER)
    assert await house.reader.pread(0, LENGTH) == OLD
    assert await house.reader.pread(CLUSTER + 7, 3) == b"ooo"
    assert await house.guest.pread(CLUSTER + 7, 3) == b"new"


async def test_reader_beyond_the_bitmap_is_denied():
    house = Fleecing()
    house.source.fill(0, OLD)
    bitmap = DirtyBitmap(LENGTH, CLUSTER, "b0")
    bitmap.mark(CLUSTER, CLUSTER)
    house.graph.nodes["target"].bitmaps["b0"] = bitmap  # any node's bitmap will do
    await house.open(bitmap={"node": "target", "name": "b0"})
    assert await house.reader.pread(CLUSTER, CLUSTER) == OLD[:CLUSTER]
    await denied(house.reader.pread(CLUSTER - 1, 2))
    await denied(house.reader.block_status(0, LENGTH))
    assert len(await house.reader.block_status(CLUSTER, CLUSTER)) == 1


async def test_guest_write_waits_for_read_of_the_disk():
    house = await opened()
    house.source.hook = gate = Gate("read")
    reading = asyncio.create_task(house.reader.pread(0, 512))
    await gate.arrived.wait()
    house.source.hook = None
    writing = asyncio.create_task(house.guest.pwrite(CLUSTER - 1, b"n"))
    await until_idle()
    assert not writing.done()
    await house.guest.pwrite(CLUSTER, b"n")  # elsewhere nobody waits
    gate.opened.set()
    assert await reading == b"o" * 512
    await writing


async def test_read_of_the_target_holds_nobody_up():
    house = await opened()
    await house.guest.pwrite(0, b"n")
    house.target.hook = gate = Gate("read")
    reading = asyncio.create_task(house.reader.pread(0, 512))
    await gate.arrived.wait()
    await house.guest.pwrite(0, b"m")
    gate.opened.set()
    assert await reading == b"o" * 512


async def test_broken_snapshot_denies_reads_under_way_and_new_ones():
    """QEMU 7.2 lets the one under way return what the guest has written meanwhile."""
    house = await opened(**{"on-cbw-error": "break-snapshot"})
    house.source.hook = gate = Gate("read")
    reading = asyncio.create_task(house.reader.pread(0, CLUSTER))
    await gate.arrived.wait()
    house.source.hook = None
    house.target.hook = failing("copy", 4 * CLUSTER)
    await house.guest.pwrite(4 * CLUSTER, b"breaks")
    await house.guest.pwrite(0, b"n")  # goes on while the other reads
    gate.opened.set()
    await denied(reading)
    await denied(house.reader.pread(8 * CLUSTER, 1))
    await denied(house.reader.block_status(8 * CLUSTER, 1))


async def test_failed_guest_write_leaves_the_snapshot_good():
    house = await opened()
    house.target.hook = failing("copy", 0)
    with pytest.raises(OSError, match="Input/output"):
        await house.guest.pwrite(0, b"new")
    assert await house.reader.pread(0, LENGTH) == OLD


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
async def test_timeout_breaks_what_the_policy_says(policy):
    house = await opened(**{"cbw-timeout": 1, "on-cbw-error": policy})
    house.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(house.guest.pwrite(0, b"new"))
    await gate.arrived.wait()
    house.house.clock.alarm.set()
    if policy == "break-snapshot":
        await writing
        await denied(house.reader.pread(0, 3))
    else:
        with pytest.raises(OSError, match="timed out"):
            await writing
        assert await house.reader.pread(0, 3) == b"ooo"
    gate.opened.set()
    await house.cbw.node.idle()
    assert await house.guest.pread(0, 3) == (b"new" if policy == "break-snapshot" else b"ooo")


async def test_discard_gives_up_whole_clusters_and_frees_them():
    house = await opened()
    discards = []

    async def pdiscard(offset, length):
        discards.append((offset, length))

    house.target.pdiscard = pdiscard
    await house.reader.pdiscard(CLUSTER - 1, 2 * CLUSTER)
    assert discards == [(CLUSTER, CLUSTER)]
    await denied(house.reader.pread(CLUSTER, 1))
    assert await house.reader.pread(0, CLUSTER) == OLD[:CLUSTER]
    asked = len(house.target.log)
    await house.guest.pwrite(CLUSTER, b"n")
    assert len(house.target.log) == asked, "what nobody may read is not copied"
    await house.reader.pdiscard(0, 100)
    assert await house.reader.pread(0, 100) == OLD[:100]


async def test_discard_waits_for_the_copy_under_way():
    """Else the copy would come after the discard, and stay in the target."""
    house = await opened()
    house.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(house.guest.pwrite(0, b"n"))
    await gate.arrived.wait()
    discarding = asyncio.create_task(house.reader.pdiscard(0, CLUSTER))
    await until_idle()
    assert not discarding.done()
    gate.opened.set()
    await asyncio.gather(discarding, writing)


async def test_discard_denies_the_read_under_way():
    house = await opened()
    await house.guest.pwrite(0, b"n")
    house.target.hook = gate = Gate("read")
    reading = asyncio.create_task(house.reader.pread(0, 512))
    await gate.arrived.wait()
    await house.reader.pdiscard(0, CLUSTER)
    gate.opened.set()
    await denied(reading)


async def test_status_is_that_of_the_point_in_time_and_names_no_file():
    house = Fleecing()
    house.source.fill(0, b"o" * CLUSTER)
    await house.open()
    before = await house.reader.block_status(0, LENGTH)
    assert before == [
        Extent(0, CLUSTER, Status.DATA | Status.ALLOCATED),
        Extent(CLUSTER, LENGTH - CLUSTER, Status.ZERO),
    ]
    await house.guest.pwrite_zeroes(0, CLUSTER)
    await house.guest.pwrite(CLUSTER, b"n")
    told = await house.reader.block_status(0, LENGTH)
    assert [extent.status & Status.ZERO for extent in told] == [0, Status.ZERO, Status.ZERO]


async def test_drain_of_the_filter_waits_for_the_reader():
    house = await opened()
    house.source.hook = gate = Gate("read")
    reading = asyncio.create_task(house.reader.pread(0, 512))
    await gate.arrived.wait()

    async def drain() -> None:
        async with drained([house.cbw.node]):
            pass

    draining = asyncio.create_task(drain())
    await until_idle()
    assert not draining.done()
    gate.opened.set()
    await draining
    await reading


async def test_writes_are_refused_and_a_node_without_point_in_time_is_not_read():
    house = await opened()
    for request in (house.reader.pwrite(0, b"x"), house.reader.pwrite_zeroes(0, CLUSTER)):
        with pytest.raises(OSError, match="not supported"):
            await request
    house.cbw.point_in_time = None
    with pytest.raises(OSError, match="not supported"):
        await house.reader.pread(0, 1)


class Old:
    """The old way: a target whose backing file is the disk, read as it is."""

    async def open(self) -> Old:
        house = self.house = Fleecing()
        house.source.fill(0, OLD)
        house.house.backing("target", "source")
        await house.open()
        self.reader = BlockBackend(house.graph, perm=Permission.CONSISTENT_READ)
        self.reader.insert(house.graph.nodes["target"])
        return self


@pytest.mark.parametrize("request_", ["read", "status"])
async def test_fleecing_target_guest_waits_for_readers_of_its_backing_file(request_):
    """A reader that has found a cluster unallocated goes to the disk, and must find it old."""
    old = await Old().open()
    house = old.house
    house.source.hook = gate = Gate(request_)
    asks = old.reader.pread if request_ == "read" else old.reader.block_status
    asking = asyncio.create_task(asks(0, 512))
    await gate.arrived.wait()
    house.source.hook = None
    writing = asyncio.create_task(house.guest.pwrite_zeroes(0, CLUSTER))
    await until_idle()
    assert not writing.done()
    gate.opened.set()
    answer = await asking
    await writing
    assert answer == b"o" * 512 or answer[0].status & Status.DATA
    assert await old.reader.pread(0, LENGTH) == OLD


async def test_fleecing_target_tells_no_file_below_it():
    """Who copied from the disk's file would get what the guest writes meanwhile."""
    old = await Old().open()
    told = await old.reader.block_status(0, LENGTH)
    assert told
    assert all(extent.file is None for extent in told)


async def test_fleecing_target_is_never_zeroed_where_data_will_come():
    """A reader would find the zeroes: they are only written where the disk has them."""
    house = Fleecing()
    house.source.fill(CLUSTER, OLD[:CLUSTER])
    house.house.backing("target", "source")
    await house.open()
    reader = BlockBackend(house.graph, perm=Permission.CONSISTENT_READ)
    reader.insert(house.graph.nodes["target"])
    house.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(house.guest.pwrite(0, b"n" * 3 * CLUSTER))
    await gate.arrived.wait()
    reading = asyncio.create_task(reader.pread(CLUSTER, CLUSTER))
    await until_idle()
    gate.opened.set()
    assert await reading == OLD[:CLUSTER]
    await writing
