"""Requests on images without QEMU: contents, extents, events, waiting, failures."""

import asyncio
import errno
import itertools
import random
import zlib

import pytest

from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout import COMPRESSED
from blkxact.drivers.qcow2.runs import Kind
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.storage.api import FileRange
from blkxact.storage.errors import CopyError
from blkxact.testing.faults import Fault
from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

CLUSTER = 65536
MIB = 1 << 20
DATA = Status.DATA | Status.ALLOCATED
ZERO = Status.ZERO | Status.ALLOCATED


@pytest.fixture
def storage():
    return MemoryStorage()


async def new_disk(storage, size=MIB, *, base=None, discard=False, child=None, **options):
    await create_qcow2(storage, "disk", size, **options)
    backing = None
    if base is not None:
        storage.load("base", base)
        backing = StorageChild(await storage.open("base", read_only=True))
    return await open_qcow2(storage, "disk", backing=backing, discard=discard, child=child)


async def assert_sound(driver, *, leaks=0):
    await driver.flush()
    found = await check_image(driver.image)
    wrong = (found.leaks, found.corruptions, found.check_errors)
    assert wrong == (leaks, 0, 0), found.messages


def kinds(driver, length=MIB):
    return [run.kind for run in driver.map.runs(0, length)]


# Contents


async def test_new_disk_reads_as_zeroes_and_has_no_extent(storage):
    driver = await new_disk(storage)
    assert bytes(await driver.pread(0, MIB)) == bytes(MIB)
    assert await driver.block_status(0, MIB) == [Extent(0, MIB, Status.NONE)]
    await close_qcow2(driver)


async def test_write_across_clusters_is_read_back_after_reopening(storage):
    driver = await new_disk(storage)
    data = random.Random(1).randbytes(3 * CLUSTER)
    await driver.pwrite(1000, data)
    assert bytes(await driver.pread(1000, len(data))) == data
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    expected = bytes(1000) + data + bytes(MIB - 1000 - len(data))
    assert bytes(await driver.pread(0, MIB)) == expected


async def test_partial_write_keeps_what_the_backing_file_holds_around_it(storage):
    base = random.Random(2).randbytes(MIB)
    driver = await new_disk(storage, base=base)
    await driver.pwrite(CLUSTER + 5, b"new")
    expected = bytearray(base)
    expected[CLUSTER + 5 : CLUSTER + 8] = b"new"
    assert bytes(await driver.pread(0, MIB)) == expected
    assert [e.status for e in await driver.block_status(0, MIB)] == [Status.NONE, DATA, Status.NONE]


async def test_disk_longer_than_its_backing_file_ends_in_zeroes(storage):
    driver = await new_disk(storage, base=b"\1" * 100_000)
    assert bytes(await driver.pread(99_990, 20)) == b"\1" * 10 + bytes(10)
    await driver.pwrite(120_000, b"x")  # copies what the backing file has of this cluster
    assert bytes(await driver.pread(99_990, 20)) == b"\1" * 10 + bytes(10)


async def test_cluster_freed_and_taken_again_shows_nothing_of_its_past(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\xaa" * CLUSTER)
    await driver.pdiscard(0, CLUSTER)
    await driver.flush()
    await driver.pwrite(5 * CLUSTER + 10, b"small")
    assert bytes(await driver.pread(5 * CLUSTER, CLUSTER)).strip(b"\0") == b"small"
    assert driver.map.find(5 * CLUSTER, 1) == 5 * CLUSTER, "the freed cluster was not used again"


async def test_range_of_a_file_is_written_without_being_read(storage):
    driver = await new_disk(storage)
    source = await storage.create("source")
    data = random.Random(3).randbytes(2 * CLUSTER)
    await source.pwrite(0, data)
    await driver.pwrite(100, FileRange(source, 7, CLUSTER))
    assert bytes(await driver.pread(100, CLUSTER)) == data[7 : 7 + CLUSTER]
    await assert_sound(driver)


async def test_failed_range_of_a_file_tells_the_side_and_takes_no_cluster(storage):
    driver = await new_disk(storage)
    source = await storage.create("source")
    await source.pwrite(0, bytes(CLUSTER))
    storage.faults.add(Fault("storage.pread", errno.EIO, {"path": "source"}))
    with pytest.raises(CopyError) as error:
        await driver.pwrite(0, FileRange(source, 0, CLUSTER))
    assert error.value.reading
    assert kinds(driver) == [Kind.UNALLOCATED]
    await assert_sound(driver)


async def test_long_write_is_one_piece_in_the_file(storage):
    driver = await new_disk(storage, 4 * MIB)
    await driver.pwrite(0, bytes(4 * MIB))
    (extent,) = await driver.block_status(0, 4 * MIB)
    assert (extent.offset, extent.length, extent.status) == (0, 4 * MIB, DATA)
    assert extent.file.path == "disk"
    assert storage.requests["pwrite"] < 20


async def test_write_in_place_changes_no_metadata(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, bytes(CLUSTER))
    await driver.flush()
    await driver.pwrite(10, b"again")
    assert not driver.image.is_dirty


@pytest.mark.parametrize(("offset", "length"), [(MIB, 1), (MIB - 1, 2)])
async def test_write_beyond_the_end_is_refused(storage, offset, length):
    driver = await new_disk(storage)
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite(offset, bytes(length))


async def test_compressed_cluster_is_read_and_replaced_by_a_write(storage):
    driver = await new_disk(storage)
    cluster = b"0123456789abcdef" * 4096
    packer = zlib.compressobj(wbits=-12)
    packed = packer.compress(cluster) + packer.flush()
    (taken,) = await driver.image.refcounts.allocate(1)
    await driver.image.file.child.pwrite(taken.first * CLUSTER + 100, packed)
    sectors = (100 + len(packed) - 1) // 512
    piece = await driver.map.writable(0)
    piece.entries[2] = COMPRESSED | sectors << 54 | (taken.first * CLUSTER + 100)
    driver.map.touch(0, piece, 2, 3)
    assert bytes(await driver.pread(2 * CLUSTER, CLUSTER)) == cluster
    extent = (await driver.block_status(2 * CLUSTER, CLUSTER))[0]
    assert extent == Extent(2 * CLUSTER, CLUSTER, DATA | Status.COMPRESSED)
    await driver.pwrite(2 * CLUSTER + 3, b"XYZ")
    expected = cluster[:3] + b"XYZ" + cluster[6:]
    assert bytes(await driver.pread(2 * CLUSTER, CLUSTER)) == expected
    await assert_sound(driver)


# Zeroes and discards


async def test_zeroes_keep_the_place_unless_they_may_unmap(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * 2 * CLUSTER)
    await driver.pwrite_zeroes(0, CLUSTER)
    await driver.pwrite_zeroes(CLUSTER, CLUSTER, WriteFlags.MAY_UNMAP)
    assert kinds(driver)[:2] == [Kind.ZERO_ALLOCATED, Kind.ZERO]
    assert bytes(await driver.pread(0, 2 * CLUSTER)) == bytes(2 * CLUSTER)
    await assert_sound(driver)


async def test_write_into_a_preallocated_zero_cluster_uses_its_place(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * CLUSTER)
    place = driver.map.find(0, 1)
    await driver.pwrite_zeroes(0, CLUSTER)
    await driver.pwrite(100, b"x")
    assert driver.map.find(0, 1) == place
    assert bytes(await driver.pread(0, CLUSTER)).strip(b"\0") == b"x"
    await assert_sound(driver)


async def test_zeroes_of_a_part_of_a_cluster_leave_the_rest(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * 3 * CLUSTER)
    await driver.pwrite_zeroes(100, 2 * CLUSTER)
    expected = b"\1" * 100 + bytes(2 * CLUSTER) + b"\1" * (CLUSTER - 100)
    assert bytes(await driver.pread(0, 3 * CLUSTER)) == expected


async def test_zeroes_of_a_part_of_an_empty_cluster_make_a_zero_cluster(storage):
    driver = await new_disk(storage)
    await driver.pwrite_zeroes(100, 200)
    assert kinds(driver) == [Kind.ZERO, Kind.UNALLOCATED]


async def test_zeroes_over_a_backing_file_hide_it(storage):
    driver = await new_disk(storage, base=b"\7" * MIB)
    await driver.pwrite_zeroes(CLUSTER - 1, CLUSTER + 2)
    expected = b"\7" * (CLUSTER - 1) + bytes(CLUSTER + 2)
    expected += b"\7" * (MIB - len(expected))
    assert bytes(await driver.pread(0, MIB)) == expected
    await assert_sound(driver)


@pytest.mark.parametrize("backed", [False, True])
async def test_version_2_writes_zeroes_where_it_cannot_say_them(storage, backed):
    base = b"\7" * MIB if backed else None
    driver = await new_disk(storage, base=base, version=2)
    await driver.pwrite(0, b"\1" * 2 * CLUSTER)
    await driver.pwrite_zeroes(0, 3 * CLUSTER)
    assert bytes(await driver.pread(0, 3 * CLUSTER)) == bytes(3 * CLUSTER)
    assert kinds(driver) == ([Kind.NORMAL, Kind.UNALLOCATED] if backed else [Kind.UNALLOCATED])
    await assert_sound(driver)


async def test_zeroes_without_fallback_are_refused_where_they_must_be_written(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * CLUSTER)
    with pytest.raises(OSError, match="not supported"):
        await driver.pwrite_zeroes(100, 200, WriteFlags.NO_FALLBACK)


async def test_discard_frees_whole_clusters_that_then_read_as_zeroes(storage):
    driver = await new_disk(storage, base=b"\7" * MIB)
    await driver.pwrite(0, b"\1" * 3 * CLUSTER)
    await driver.pdiscard(1, 3 * CLUSTER - 2)
    expected = b"\1" * CLUSTER + bytes(CLUSTER) + b"\1" * CLUSTER
    assert bytes(await driver.pread(0, 3 * CLUSTER)) == expected
    await assert_sound(driver)


async def test_discard_to_the_end_of_an_odd_disk_takes_the_last_cluster(storage):
    driver = await new_disk(storage, CLUSTER + 512)
    await driver.pwrite(0, b"\1" * (CLUSTER + 512))
    await driver.pdiscard(CLUSTER, 512)
    assert bytes(await driver.pread(CLUSTER, 512)) == bytes(512)
    assert kinds(driver, CLUSTER + 512) == [Kind.NORMAL, Kind.ZERO]


async def test_discard_in_version_2_with_a_backing_file_does_nothing(storage):
    driver = await new_disk(storage, base=b"\7" * MIB, version=2)
    await driver.pwrite(0, b"\1" * CLUSTER)
    await driver.pdiscard(0, CLUSTER)
    assert bytes(await driver.pread(0, 1)) == b"\1"


@pytest.mark.parametrize("discard", [False, True])
async def test_discarded_clusters_become_holes_of_the_file_if_that_is_asked_for(storage, discard):
    driver = await new_disk(storage, discard=discard)
    await driver.pwrite(0, b"\1" * MIB)
    await driver.flush()
    before = driver.children["file"].file.allocated_size()
    await driver.pdiscard(0, MIB)
    await driver.flush()
    after = driver.children["file"].file.allocated_size()
    assert before - after >= MIB if discard else after >= before


async def test_holes_in_the_file_are_zeroes_by_whole_clusters(storage):
    driver = await new_disk(storage, preallocation="metadata")
    await driver.pwrite(CLUSTER * 2 + 4096, b"\1" * 4096)
    extents = await driver.block_status(0, MIB)
    assert [(e.offset, e.length, bool(e.status & Status.ZERO)) for e in extents] == [
        (0, 2 * CLUSTER, True),
        (2 * CLUSTER, CLUSTER, False),
        (3 * CLUSTER, MIB - 3 * CLUSTER, True),
    ]
    assert extents[1].file_offset == driver.map.find(2 * CLUSTER, 1)


# A model


def scattered(seeded, size, cluster_size):
    """Some runs of whole clusters, in order, that do not touch."""
    clusters = size // cluster_size
    cuts = sorted(seeded.sample(range(clusters + 1), min(clusters + 1, seeded.randrange(2, 12))))
    return [
        (first * cluster_size, seeded.randbytes((end - first) * cluster_size))
        for first, end in list(itertools.pairwise(cuts))[::2]
    ]


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 << 20])
@pytest.mark.parametrize("backed", [False, True])
async def test_random_requests_agree_with_a_model(storage, seeded, cluster_size, backed):
    size = min(cluster_size * 300, 4 * MIB) + 512
    base = seeded.randbytes(size // 2) if backed else None
    driver = await new_disk(storage, size, base=base, cluster_size=cluster_size, discard=True)
    model = bytearray((base or b"").ljust(size, b"\0"))
    for _ in range(150):
        offset = seeded.randrange(size)
        length = min(size - offset, seeded.choice([1, 600, 3 * cluster_size, 100_000]))
        action = seeded.random()
        if action < 0.5:
            data = seeded.randbytes(length)
            model[offset : offset + length] = data
            await driver.pwrite(offset, data)
        elif action < 0.6:
            runs = scattered(seeded, size, cluster_size)
            for start, data in runs:
                model[start : start + len(data)] = data
            await driver.pwrite_runs(runs)
        elif action < 0.7:
            model[offset : offset + length] = bytes(length)
            await driver.pwrite_zeroes(offset, length, seeded.choice(list(WriteFlags)[:2]))
        elif action < 0.78:
            offset -= offset % cluster_size
            length = min(size - offset, -(-length // cluster_size) * cluster_size)
            model[offset : offset + length] = bytes(length)
            await driver.pdiscard(offset, length)
        elif action < 0.82:
            await driver.flush()
        else:
            assert bytes(await driver.pread(offset, length)) == model[offset : offset + length]
    await assert_sound(driver)
    await close_qcow2(driver)
    backing = StorageChild(await storage.open("base", read_only=True)) if backed else None
    driver = await open_qcow2(storage, "disk", backing=backing)
    assert bytes(await driver.pread(0, size)) == model


# Side by side


def test_first_writes_to_one_cluster_at_a_time_are_all_there(sim_seed):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        driver = await new_disk(storage, base=b"\7" * MIB)
        model = bytearray(b"\7" * MIB)

        async def write(offset, data):
            model[offset : offset + len(data)] = data
            await driver.pwrite(offset, data)

        pieces = [(n * 1000, bytes([n + 1]) * 1000) for n in range(200)]
        await asyncio.gather(*(write(*piece) for piece in pieces))
        assert bytes(await driver.pread(0, MIB)) == model
        await assert_sound(driver)
        await close_qcow2(driver)

    run_simulated(main(), sim_seed)


def test_discard_waits_for_writes_into_the_cluster_that_it_frees(sim_seed):
    """Else the late write would land in a cluster that belongs to somebody else by then."""

    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        driver = await new_disk(storage)
        await driver.pwrite(0, b"\1" * MIB)
        for _ in range(20):

            async def replace(n):
                await driver.pdiscard(n * CLUSTER, CLUSTER)
                await driver.flush()
                await driver.pwrite((n + 8) * CLUSTER, b"\2" * CLUSTER)

            await driver.pwrite_zeroes(8 * CLUSTER, 8 * CLUSTER, WriteFlags.MAY_UNMAP)
            overwrites = [driver.pwrite(n * CLUSTER, b"\3" * CLUSTER) for n in range(8)]
            await asyncio.gather(*overwrites, *map(replace, range(8)))
            half = bytes(await driver.pread(8 * CLUSTER, 8 * CLUSTER))
            assert half == b"\2" * 8 * CLUSTER
            await assert_sound(driver)
        await close_qcow2(driver)

    run_simulated(main(), sim_seed)


def test_flush_waits_for_a_write_back_under_way(sim_seed):
    """A flush that finds the caches empty must not end before they are on the disk."""

    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        for round_number in range(30):
            driver = await new_disk(storage, cluster_size=512)
            await driver.pwrite(0, b"data" * 128)
            first = asyncio.ensure_future(driver.flush())
            await asyncio.sleep(storage.random.random() * 0.05)
            await driver.flush()
            crashed = storage.crash()
            crashed.latency = None
            found = await open_qcow2(crashed, "disk")
            assert bytes(await found.pread(0, 512)) == b"data" * 128, round_number
            await first
            await close_qcow2(driver)

    run_simulated(main(), sim_seed)


def test_cancelled_write_leaves_a_sound_image(sim_seed):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        driver = await new_disk(storage, base=b"\7" * MIB)
        for n in range(60):
            write = asyncio.ensure_future(driver.pwrite(n * 10_000, b"\1" * 70_000))
            await asyncio.sleep(storage.random.random() * 0.03)
            write.cancel()
            await asyncio.wait([write])
        await assert_sound(driver)
        data = bytes(await driver.pread(0, MIB))
        assert set(data) <= {1, 7}
        await driver.pwrite(0, data)
        await close_qcow2(driver)

    run_simulated(main(), sim_seed)


# Failures


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("operation", ["pwrite", "pread", "flush", "write_zeroes"])
def test_failure_of_any_request_below_leaves_a_sound_image(sim_seed, operation, partial):
    """Whatever fails, once: the requests after it succeed and the image is sound."""

    async def attempt(skip):
        storage = MemoryStorage(random.Random(sim_seed))
        driver = await new_disk(storage, base=b"\7" * MIB, cluster_size=512, refcount_bits=64)
        storage.faults.add(
            Fault(f"storage.{operation}", errno.EIO, {"path": "disk"}, skip=skip, partial=partial)
        )
        failed = 0
        for n in range(12):
            try:
                await driver.pwrite(n * 60_000, bytes([n]) * 40_000)
                await driver.pwrite_zeroes(n * 60_000 + 100, 3000, WriteFlags.MAY_UNMAP)
                await driver.flush()
            except OSError:
                failed += 1
        storage.faults.clear()
        if operation == "flush" and failed:
            return True  # a file whose flush failed once is not to be trusted any more
        await assert_sound(driver)
        for n in range(12):
            await driver.pwrite(n * 60_000, bytes([n]) * 40_000)
        for n in range(12):
            assert bytes(await driver.pread(n * 60_000, 40_000)) == bytes([n]) * 40_000
        await assert_sound(driver)
        await close_qcow2(driver)
        return bool(failed)

    async def main():
        struck = 0
        for skip in range(0, 120, 7):
            struck += await attempt(skip)
        assert struck or operation in {"write_zeroes", "pread"}

    run_simulated(main(), sim_seed)


# Events


class ListeningChild(StorageChild):
    wants_events = True

    def __init__(self, file):
        super().__init__(file)
        self.events = []

    async def debug_event(self, event):
        self.events.append(event)


async def test_events_are_told_at_the_points_where_qemu_tells_them(storage):
    await create_qcow2(storage, "disk", MIB)
    child = ListeningChild(await storage.open("disk"))
    storage.load("base", b"\7" * MIB)
    backing = StorageChild(await storage.open("base", read_only=True))
    driver = await open_qcow2(storage, "disk", child=child, backing=backing)

    async def told(request):
        child.events.clear()
        await request
        return child.events[:]

    await told(driver.pread(0, 512))
    assert child.events == ["read_backing_aio"]
    assert await told(driver.pwrite(0, bytes(512))) == [
        "cluster_alloc", "refblock_load", "cluster_alloc", "cow_read", "read_backing_aio",
        "write_aio",
    ]  # fmt: skip
    assert await told(driver.pwrite(512, bytes(512))) == ["write_aio"]
    assert await told(driver.pread(0, 1024)) == ["read_aio"]
    assert await told(driver.flush()) == ["refblock_update_part", "l2_update", "l1_update"]
