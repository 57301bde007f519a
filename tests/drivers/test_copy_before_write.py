"""The copy-before-write filter on a real graph, over disks in memory."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.block.types import Permission, WriteFlags
from blkxact.drivers.copy_before_write import CopyBeforeWriteDriver
from blkxact.errors import QmpError
from blkxact.testing.waiting import take_turns
from tests.environment import options_of
from tests.memory_disks import KIB, Gate, MemoryDisks, failing

from .fleecing import StillClock

MIB = 1024 * KIB
CLUSTER = 64 * KIB
LENGTH = 2 * MIB


class Filtered:
    """source <- cbw -> target, with a guest above."""

    def __init__(self, length=LENGTH):
        self.disks = MemoryDisks(StillClock())
        self.source = self.disks.disk("source", length)
        self.target = self.disks.disk("target", length)

    async def open(self, **options):
        node = self.disks.filter_node("cbw", {"file": "source", "target": "target"})
        given = options_of(CopyBeforeWriteDriver, node.children, **options)
        driver = await CopyBeforeWriteDriver.open(self.disks.context("cbw"), given, node.children)
        self.disks.opened(node, driver)
        self.driver = driver
        self.guest = self.disks.guest("cbw")
        return self


async def test_cbw_write_copies_old_bytes_first(seeded):
    disks = Filtered()
    old = seeded.randbytes(LENGTH)
    disks.source.fill(0, old)
    await disks.open()
    await disks.guest.pwrite(CLUSTER + 5, b"new")
    assert bytes(disks.target.file.data[CLUSTER : 2 * CLUSTER]) == old[CLUSTER : 2 * CLUSTER]
    assert not any(disks.target.file.data[2 * CLUSTER :])
    assert (
        await disks.guest.pread(CLUSTER + 4, 5)
        == old[CLUSTER + 4 : CLUSTER + 5] + b"new" + (old[CLUSTER + 8 : CLUSTER + 9])
    )
    assert disks.driver.point.done_bitmap.count() == CLUSTER


async def test_cbw_second_write_is_not_copied_again():
    disks = await Filtered().open()
    await disks.guest.pwrite(0, b"1")
    before = len(disks.target.log)
    await disks.guest.pwrite(1, b"2")
    assert len(disks.target.log) == before


@pytest.mark.parametrize("how", ["zeroes", "discard"])
async def test_cbw_zeroes_and_discard_copy_first(how):
    disks = Filtered()
    disks.source.fill(0, b"o" * LENGTH)
    await disks.open()
    disks.driver.node.discard = True
    if how == "zeroes":
        await disks.guest.pwrite_zeroes(0, CLUSTER)
    else:
        await disks.guest.pdiscard(0, CLUSTER)
    assert bytes(disks.target.file.data[: 2 * CLUSTER]) == b"o" * CLUSTER + bytes(CLUSTER)


async def test_cbw_write_unchanged_is_not_copied():
    disks = await Filtered().open()
    await disks.guest.pwrite(0, b"same", WriteFlags.UNCHANGED)
    assert not disks.target.log


async def test_cbw_bitmap_limits_what_is_kept():
    disks = Filtered()
    disks.source.fill(0, b"o" * LENGTH)
    bitmap = DirtyBitmap(LENGTH, 4 * CLUSTER, "b0")
    bitmap.mark(MIB, 1)
    disks.disks.graph.nodes["source"].bitmaps["b0"] = bitmap
    await disks.open(bitmap={"node": "source", "name": "b0"})
    await disks.guest.pwrite(0, b"n" * LENGTH)
    kept = bytes(disks.target.file.data)
    assert kept == bytes(MIB) + b"o" * 4 * CLUSTER + bytes(MIB - 4 * CLUSTER)


@pytest.mark.parametrize(
    ("bitmap", "message"),
    [
        ({"node": "nope", "name": "b0"}, "Node 'nope' not found"),
        ({"node": "source", "name": "b1"}, "Dirty bitmap 'b1' not found"),
    ],
)
async def test_cbw_bitmap_missing_is_refused(bitmap, message):
    with pytest.raises(QmpError, match=message):
        await Filtered().open(bitmap=bitmap)


async def test_cbw_bitmap_of_other_size_is_refused():
    disks = Filtered()
    disks.disks.graph.nodes["source"].bitmaps["b0"] = DirtyBitmap(MIB, CLUSTER, "b0")
    with pytest.raises(QmpError, match=r"^Cannot create block-copy-state: Failed to merge bitmap"):
        await disks.open(bitmap={"node": "source", "name": "b0"})


async def test_cbw_failed_copy_breaks_guest_write():
    disks = Filtered()
    disks.source.fill(0, b"o" * LENGTH)
    await disks.open()
    disks.target.hook = failing("copy", 0, errno.ENOSPC)
    with pytest.raises(OSError, match="No space") as caught:
        await disks.guest.pwrite(0, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert await disks.guest.pread(0, 3) == b"ooo"
    await disks.guest.pwrite(0, b"new")
    assert bytes(disks.target.file.data[:CLUSTER]) == b"o" * CLUSTER


async def test_cbw_failed_copy_breaks_snapshot_and_lets_guest_write():
    disks = Filtered()
    disks.source.fill(0, b"o" * LENGTH)
    await disks.open(**{"on-cbw-error": "break-snapshot"})
    disks.target.hook = failing("copy", 0)
    await disks.guest.pwrite(0, b"new")
    assert disks.driver.point.error.errno == errno.EIO
    asked = len(disks.target.log)
    await disks.guest.pwrite(MIB, b"new")
    assert len(disks.target.log) == asked


async def test_cbw_timeout_fails_guest_and_goes_on_behind():
    disks = Filtered()
    disks.source.fill(0, b"o" * LENGTH)
    await disks.open(**{"cbw-timeout": 1})
    disks.target.hook = gate = Gate("copy")
    write = asyncio.create_task(disks.guest.pwrite(0, b"new"))
    await gate.arrived.wait()
    disks.disks.clock.alarm.set()
    with pytest.raises(OSError, match="timed out"):
        await write
    assert disks.driver.node.in_flight == 1
    gate.opened.set()
    await disks.driver.node.idle()
    assert bytes(disks.target.file.data[:CLUSTER]) == b"o" * CLUSTER
    assert disks.driver.node.in_flight == 0


async def test_cbw_permissions_nobody_writes_past_the_filter():
    disks = await Filtered().open()
    graph = disks.disks.graph
    with pytest.raises(QmpError, match="Permission conflict on node 'source'"):
        disks.disks.edge("source", Permission.WRITE)
    (edge,) = graph.nodes["target"].parents
    assert edge.perm == Permission.WRITE
    assert edge.shared == Permission.ALL & ~Permission.RESIZE


async def test_cbw_inserted_under_guest_and_removed_again():
    disks = Filtered()
    disks.guest = disks.disks.guest("source")
    graph = disks.disks.graph
    node = disks.disks.filter_node("cbw", {"file": "source", "target": "target"})
    options = options_of(CopyBeforeWriteDriver, node.children)
    driver = await CopyBeforeWriteDriver.open(disks.disks.context("cbw"), options, node.children)
    disks.disks.opened(node, driver)
    graph.insert_filter(graph.nodes["source"], node)
    assert disks.guest.node is node
    await disks.guest.pwrite(0, b"x")
    assert disks.target.log
    graph.remove_filter(node)
    assert disks.guest.node is graph.nodes["source"]


class Delays:
    """A hook that yields now and then and fails now and then."""

    def __init__(self, rng: random.Random, failures: float) -> None:
        self.rng = rng
        self.failures = failures

    async def __call__(self, name: str, offset: int, length: int) -> None:
        await take_turns(self.rng.choice([0, 0, 1, 3]))
        if name in ("copy", "write", "zero") and self.rng.random() < self.failures:
            raise OSError(errno.EIO, "unlucky")


async def _guest_traffic(disks: Filtered, rng: random.Random, model: bytearray) -> None:
    """Write, zero and discard at random; ``model`` follows what the guest was told."""
    for number in range(60):
        length = rng.choice([1, 512, 5000, CLUSTER, 3 * CLUSTER])
        offset = rng.randrange(LENGTH - length)
        data = bytes([number + 1]) * length if rng.random() < 0.8 else bytes(length)
        try:
            if any(data):
                await disks.guest.pwrite(offset, data)
            else:
                await disks.guest.pwrite_zeroes(offset, length)
        except OSError:
            continue
        model[offset : offset + length] = data


@pytest.mark.parametrize("failures", [0.0, 0.1])
@pytest.mark.parametrize("places", [True, False], ids=["by-file", "by-bytes"])
@pytest.mark.parametrize("round_", range(8))
async def test_cbw_point_in_time_is_exact_under_guest_writes(seeded, round_, places, failures):
    rng = seeded
    disks = Filtered()
    disks.source.places = places
    for _ in range(12):
        disks.source.fill(rng.randrange(LENGTH // 4096 - 16) * 4096, rng.randbytes(16 * 4096))
    start = bytes(disks.source.file.data)
    await disks.open()
    copy = disks.driver.block_copy
    disks.source.hook, disks.target.hook = Delays(rng, 0), Delays(rng, failures)
    model = bytearray(start)

    async def job() -> None:
        while True:
            try:
                await copy.copy_dirty(max_chunk=CLUSTER * 2)
            except OSError:
                continue
            return

    await asyncio.gather(job(), _guest_traffic(disks, rng, model))
    assert bytes(disks.target.file.data) == start
    assert bytes(disks.source.file.data) == bytes(model)
    assert copy.remaining == 0
    assert not copy._pieces
