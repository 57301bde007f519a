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
from tests.emulator import Emulator
from tests.memory_disks import Gate, failing

from .fleecing import CLUSTER, LENGTH, Fleecing

OLD = b"o" * LENGTH


async def opened(**options) -> Fleecing:
    disks = Fleecing()
    disks.source.fill(0, OLD)
    return await disks.open(**options)


async def denied(request) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        await request
    assert caught.value.errno == errno.EACCES


async def test_reader_sees_old_bytes_across_what_was_overwritten():
    disks = await opened()
    await disks.guest.pwrite(CLUSTER + 7, b"new")
    await disks.guest.pwrite_zeroes(4 * CLUSTER, CLUSTER)
    assert await disks.reader.pread(0, LENGTH) == OLD
    assert await disks.reader.pread(CLUSTER + 7, 3) == b"ooo"
    assert await disks.guest.pread(CLUSTER + 7, 3) == b"new"


async def test_reader_beyond_the_bitmap_is_denied():
    disks = Fleecing()
    disks.source.fill(0, OLD)
    bitmap = DirtyBitmap(LENGTH, CLUSTER, "b0")
    bitmap.mark(CLUSTER, CLUSTER)
    disks.graph.nodes["target"].bitmaps["b0"] = bitmap  # any node's bitmap will do
    await disks.open(bitmap={"node": "target", "name": "b0"})
    assert await disks.reader.pread(CLUSTER, CLUSTER) == OLD[:CLUSTER]
    await denied(disks.reader.pread(CLUSTER - 1, 2))
    await denied(disks.reader.block_status(0, LENGTH))
    assert len(await disks.reader.block_status(CLUSTER, CLUSTER)) == 1


async def test_guest_write_waits_for_read_of_the_disk():
    disks = await opened()
    disks.source.hook = gate = Gate("read")
    reading = asyncio.create_task(disks.reader.pread(0, 512))
    await gate.arrived.wait()
    disks.source.hook = None
    writing = asyncio.create_task(disks.guest.pwrite(CLUSTER - 1, b"n"))
    await until_idle()
    assert not writing.done()
    await disks.guest.pwrite(CLUSTER, b"n")  # elsewhere nobody waits
    gate.opened.set()
    assert await reading == b"o" * 512
    await writing


async def test_read_of_the_target_holds_nobody_up():
    disks = await opened()
    await disks.guest.pwrite(0, b"n")
    disks.target.hook = gate = Gate("read")
    reading = asyncio.create_task(disks.reader.pread(0, 512))
    await gate.arrived.wait()
    await disks.guest.pwrite(0, b"m")
    gate.opened.set()
    assert await reading == b"o" * 512


async def test_broken_snapshot_denies_reads_under_way_and_new_ones():
    """QEMU 7.2 lets the one under way return what the guest has written meanwhile."""
    disks = await opened(**{"on-cbw-error": "break-snapshot"})
    disks.source.hook = gate = Gate("read")
    reading = asyncio.create_task(disks.reader.pread(0, CLUSTER))
    await gate.arrived.wait()
    disks.source.hook = None
    disks.target.hook = failing("copy", 4 * CLUSTER)
    await disks.guest.pwrite(4 * CLUSTER, b"breaks")
    await disks.guest.pwrite(0, b"n")  # goes on while the other reads
    gate.opened.set()
    await denied(reading)
    await denied(disks.reader.pread(8 * CLUSTER, 1))
    await denied(disks.reader.block_status(8 * CLUSTER, 1))


async def test_failed_guest_write_leaves_the_snapshot_good():
    disks = await opened()
    disks.target.hook = failing("copy", 0)
    with pytest.raises(OSError, match="Input/output"):
        await disks.guest.pwrite(0, b"new")
    assert await disks.reader.pread(0, LENGTH) == OLD


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
async def test_timeout_breaks_what_the_policy_says(policy):
    disks = await opened(**{"cbw-timeout": 1, "on-cbw-error": policy})
    disks.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(disks.guest.pwrite(0, b"new"))
    await gate.arrived.wait()
    disks.disks.clock.alarm.set()
    if policy == "break-snapshot":
        await writing
        await denied(disks.reader.pread(0, 3))
    else:
        with pytest.raises(OSError, match="timed out"):
            await writing
        assert await disks.reader.pread(0, 3) == b"ooo"
    gate.opened.set()
    await disks.cbw.node.idle()
    assert await disks.guest.pread(0, 3) == (b"new" if policy == "break-snapshot" else b"ooo")


async def test_discard_gives_up_whole_clusters_and_frees_them():
    disks = await opened()
    discards = []

    async def pdiscard(offset, length):
        discards.append((offset, length))

    disks.target.pdiscard = pdiscard
    await disks.reader.pdiscard(CLUSTER - 1, 2 * CLUSTER)
    assert discards == [(CLUSTER, CLUSTER)]
    await denied(disks.reader.pread(CLUSTER, 1))
    assert await disks.reader.pread(0, CLUSTER) == OLD[:CLUSTER]
    asked = len(disks.target.log)
    await disks.guest.pwrite(CLUSTER, b"n")
    assert len(disks.target.log) == asked, "what nobody may read is not copied"
    await disks.reader.pdiscard(0, 100)
    assert await disks.reader.pread(0, 100) == OLD[:100]


async def test_discard_waits_for_the_copy_under_way():
    """Else the copy would come after the discard, and stay in the target."""
    disks = await opened()
    disks.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(disks.guest.pwrite(0, b"n"))
    await gate.arrived.wait()
    discarding = asyncio.create_task(disks.reader.pdiscard(0, CLUSTER))
    await until_idle()
    assert not discarding.done()
    gate.opened.set()
    await asyncio.gather(discarding, writing)


async def test_discard_denies_the_read_under_way():
    disks = await opened()
    await disks.guest.pwrite(0, b"n")
    disks.target.hook = gate = Gate("read")
    reading = asyncio.create_task(disks.reader.pread(0, 512))
    await gate.arrived.wait()
    await disks.reader.pdiscard(0, CLUSTER)
    gate.opened.set()
    await denied(reading)


async def test_status_is_that_of_the_point_in_time_and_names_no_file():
    disks = Fleecing()
    disks.source.fill(0, b"o" * CLUSTER)
    await disks.open()
    before = await disks.reader.block_status(0, LENGTH)
    assert before == [
        Extent(0, CLUSTER, Status.DATA | Status.ALLOCATED),
        Extent(CLUSTER, LENGTH - CLUSTER, Status.ZERO),
    ]
    await disks.guest.pwrite_zeroes(0, CLUSTER)
    await disks.guest.pwrite(CLUSTER, b"n")
    told = await disks.reader.block_status(0, LENGTH)
    assert [extent.status & Status.ZERO for extent in told] == [0, Status.ZERO, Status.ZERO]


async def test_drain_of_the_filter_waits_for_the_reader():
    disks = await opened()
    disks.source.hook = gate = Gate("read")
    reading = asyncio.create_task(disks.reader.pread(0, 512))
    await gate.arrived.wait()

    async def drain() -> None:
        async with drained([disks.cbw.node]):
            pass

    draining = asyncio.create_task(drain())
    await until_idle()
    assert not draining.done()
    gate.opened.set()
    await draining
    await reading


async def test_writes_are_refused_and_a_node_without_point_in_time_is_not_read():
    disks = await opened()
    for request in (disks.reader.pwrite(0, b"x"), disks.reader.pwrite_zeroes(0, CLUSTER)):
        with pytest.raises(OSError, match="not supported"):
            await request
    disks.cbw.point_in_time = None
    with pytest.raises(OSError, match="not supported"):
        await disks.reader.pread(0, 1)


async def test_opening_it_locks_nothing_of_an_image_that_grows():
    emulator = Emulator()
    await emulator.disk("a")
    file = {"driver": "file", "filename": "/a.qcow2"}
    await emulator.execute("blockdev-add", driver="snapshot-access", node_name="s", file=file)
    assert emulator.layer.graph.nodes.keys() >= {"a", "s"}
    await emulator.layer.shutdown()


class Old:
    """The old way: a target whose backing file is the disk, read as it is."""

    async def open(self) -> Old:
        disks = self.disks = Fleecing()
        disks.source.fill(0, OLD)
        disks.disks.backing("target", "source")
        await disks.open()
        self.reader = BlockBackend(disks.graph, perm=Permission.CONSISTENT_READ)
        self.reader.insert(disks.graph.nodes["target"])
        return self


@pytest.mark.parametrize("request_", ["read", "status"])
async def test_fleecing_target_guest_waits_for_readers_of_its_backing_file(request_):
    """A reader that has found a cluster unallocated goes to the disk, and must find it old."""
    old = await Old().open()
    disks = old.disks
    disks.source.hook = gate = Gate(request_)
    asks = old.reader.pread if request_ == "read" else old.reader.block_status
    asking = asyncio.create_task(asks(0, 512))
    await gate.arrived.wait()
    disks.source.hook = None
    writing = asyncio.create_task(disks.guest.pwrite_zeroes(0, CLUSTER))
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
    disks = Fleecing()
    disks.source.fill(CLUSTER, OLD[:CLUSTER])
    disks.disks.backing("target", "source")
    await disks.open()
    reader = BlockBackend(disks.graph, perm=Permission.CONSISTENT_READ)
    reader.insert(disks.graph.nodes["target"])
    disks.target.hook = gate = Gate("copy")
    writing = asyncio.create_task(disks.guest.pwrite(0, b"n" * 3 * CLUSTER))
    await gate.arrived.wait()
    reading = asyncio.create_task(reader.pread(CLUSTER, CLUSTER))
    await until_idle()
    gate.opened.set()
    assert await reading == OLD[:CLUSTER]
    await writing
