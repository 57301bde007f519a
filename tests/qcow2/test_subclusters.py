"""Extended L2 entries: the same requests leave the same bits as in QEMU, and the same disk."""

import errno
import os
import struct

import pytest

from blkxact.block.types import Status, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout import OFFSET_MASK
from blkxact.drivers.qcow2.runs import Kind, Run, append_run
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .helpers import (
    assert_clean,
    assert_content,
    close_qcow2,
    create_qcow2,
    make_storage,
    open_qcow2,
    qemu_io,
    run,
)

KIB = 1024
SUB = 2 * KIB
CLUSTER = 64 * KIB
L2_AT = 4 * CLUSTER


def bits(*ranges):
    """Return the number with the bits of subclusters, given as numbers or ranges, set."""
    numbers = [n for part in ranges for n in ([part] if isinstance(part, int) else part)]
    return sum(1 << n for n in numbers)


def l2_entries(path):
    """Return (has a place, allocated, zero) of each L2 entry that is not empty, by cluster.

    The bits of subclusters behind the end of the disk mean nothing and are left out.
    """
    data = path.read_bytes()
    cluster_bits, disk_size = struct.unpack_from(">IQ", data, 20)
    l1_size, l1_offset = struct.unpack_from(">IQ", data, 36)
    size = 1 << cluster_bits
    found = {}
    for index in range(l1_size):
        table = struct.unpack_from(">Q", data, l1_offset + 8 * index)[0] & 0xFFFFFFFFFFFE00
        for at in range(size // 16 if table else 0):
            entry, bitmap = struct.unpack_from(">QQ", data, table + 16 * at)
            if entry or bitmap:
                place = "compressed" if entry >> 62 & 1 else bool(entry & 0xFFFFFFFFFFFE00)
                cluster = index * (size // 16) + at
                inside = min(32, -(-(disk_size - cluster * size) // (size // 32)))
                mask = (1 << inside) - 1
                found[cluster] = place, bitmap & mask, bitmap >> 32 & mask
    return found


async def in_memory(size=1 << 20, *, backing=None, **options):
    storage = MemoryStorage()
    await create_qcow2(storage, "disk", size, extended_l2=True, **options)
    child = None
    if backing is not None:
        storage.load("base", backing)
        child = StorageChild(await storage.open("base", read_only=True))
    return storage, await open_qcow2(storage, "disk", backing=child)


async def bitmaps(driver, storage):
    """Flush, and return the bitmap of the first cluster on disk as (allocated, zero)."""
    await driver.flush()
    file = await storage.open("disk", read_only=True)
    table = driver.map.l1[0] & OFFSET_MASK
    bitmap = struct.unpack(">Q", await file.pread(table + 8, 8))[0]
    await file.close()
    return bitmap & 0xFFFFFFFF, bitmap >> 32


async def test_write_allocates_the_subclusters_that_it_touches_and_no_more():
    backing = b"\xff" * (1 << 20)
    storage, driver = await in_memory(backing=backing)
    before = driver.children["file"].length
    await driver.pwrite(3 * SUB + 100, b"x" * SUB)
    assert await bitmaps(driver, storage) == (bits(3, 4), 0)
    found = bytes(await driver.pread(0, CLUSTER))
    assert found == b"\xff" * (3 * SUB + 100) + b"x" * SUB + b"\xff" * (CLUSTER - 4 * SUB - 100)
    assert driver.children["file"].length - before <= 2 * CLUSTER + 5 * SUB


async def test_write_copies_no_more_than_the_rest_of_its_subclusters():
    _, driver = await in_memory(backing=b"\xff" * (1 << 20))
    asked = []
    backing = driver.children["backing"]
    read = backing.pread

    async def pread(offset, length):
        asked.append((offset, length))
        return await read(offset, length)

    backing.pread = pread
    await driver.pwrite(5 * SUB + 512, b"x" * 512)
    assert asked == [(5 * SUB, 512), (5 * SUB + 1024, 1024)]
    asked.clear()
    await driver.pwrite(5 * SUB, b"x" * SUB)
    assert not asked


async def test_write_over_allocated_subclusters_touches_no_metadata():
    _, driver = await in_memory()
    await driver.pwrite(3 * SUB, b"x" * 4 * SUB)
    await driver.flush()
    await driver.pwrite(4 * SUB + 5, b"y" * SUB)
    assert not driver.image.is_dirty
    assert driver.map.find(4 * SUB, 3 * SUB, in_place=True) > 0
    assert driver.map.find(2 * SUB, 2 * SUB) == -1


async def test_zeroes_up_to_the_end_of_the_disk_write_no_bytes():
    storage, driver = await in_memory(CLUSTER + 3 * SUB + 512)
    await driver.pwrite(0, b"x" * driver.length)
    await driver.flush()
    before = storage.requests["pwrite"]
    await driver.pwrite_zeroes(CLUSTER + 2 * SUB, SUB + 512)
    assert storage.requests["pwrite"] == before
    assert bytes(await driver.pread(CLUSTER, 3 * SUB + 512)) == b"x" * 2 * SUB + bytes(SUB + 512)


async def test_discard_frees_whole_clusters_only():
    storage, driver = await in_memory()
    await driver.pwrite(0, b"x" * 2 * CLUSTER)
    await driver.pdiscard(SUB, 2 * CLUSTER - SUB)
    assert await bitmaps(driver, storage) == (0xFFFFFFFF, 0)
    told = [(e.offset, e.status) for e in await driver.block_status(0, 2 * CLUSTER)]
    data, zero = Status.DATA | Status.ALLOCATED, Status.ZERO | Status.ALLOCATED
    assert told == [(0, data), (CLUSTER, zero)]
    found = await check_image(driver.image)
    assert (found.allocated_clusters, found.leaks, found.corruptions) == (1, 0, 0)


async def test_write_to_a_compressed_cluster_unpacks_all_of_it():
    storage, driver = await in_memory()
    await driver.pwrite(0, b"c" * CLUSTER, WriteFlags.COMPRESSED)
    assert await bitmaps(driver, storage) == (0, 0)
    await driver.pwrite(3 * SUB + 5, b"x" * 10)
    assert await bitmaps(driver, storage) == (0xFFFFFFFF, 0)
    expected = bytearray(b"c" * CLUSTER)
    expected[3 * SUB + 5 : 3 * SUB + 15] = b"x" * 10
    assert bytes(await driver.pread(0, CLUSTER)) == expected


async def test_cluster_of_a_snapshot_takes_its_subclusters_along_when_it_is_written():
    _, driver = await in_memory()
    await driver.pwrite_zeroes(7 * SUB, SUB)
    await driver.pwrite(13 * SUB, b"a" * SUB)
    await driver.pwrite(18 * SUB, b"b" * SUB)
    before = bytes(await driver.pread(0, CLUSTER))
    await driver.internal_snapshots.create("old", date_us=0)
    await driver.pwrite(15 * SUB, b"new")
    await driver.flush()
    expected = bytearray(before)
    expected[15 * SUB : 15 * SUB + 3] = b"new"
    assert bytes(await driver.pread(0, CLUSTER)) == expected
    told = [(e.offset // SUB, e.length // SUB, e.status) for e in
            await driver.block_status(0, CLUSTER)]  # fmt: skip
    data = Status.DATA | Status.ALLOCATED
    zero = Status.ZERO | Status.ALLOCATED | Status.PREALLOCATED
    assert told == [(0, 7, Status.NONE), (7, 1, zero), (8, 5, Status.NONE), (13, 6, data),
                    (19, 13, Status.NONE)]  # fmt: skip
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions) == (0, 0), found.messages
    await driver.internal_snapshots.apply(driver.internal_snapshots.entries[0])
    assert bytes(await driver.pread(0, CLUSTER)) == before
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions) == (0, 0), found.messages


def test_run_without_a_place_is_not_joined_to_one_that_has_a_place():
    """Even where the place is as many bytes from the file's start as the first one is long."""
    first = Run(Kind.UNALLOCATED, 0, 5 * CLUSTER, 0)
    second = Run(Kind.UNALLOCATED, 5 * CLUSTER, SUB, 5 * CLUSTER)
    runs = [first]
    append_run(runs, second)
    assert runs == [first, second]


async def test_extents_are_told_by_subclusters():
    _, driver = await in_memory(backing=b"\xff" * (1 << 20))
    await driver.pwrite(2 * SUB, b"x" * SUB)
    await driver.pwrite_zeroes(4 * SUB, 3 * SUB)
    told = [(e.offset // SUB, e.length // SUB, e.status) for e in
            await driver.block_status(0, CLUSTER)]  # fmt: skip
    data = Status.DATA | Status.ALLOCATED
    zero = Status.ZERO | Status.ALLOCATED | Status.PREALLOCATED
    assert told == [(0, 2, Status.NONE), (2, 1, data), (3, 1, Status.NONE), (4, 3, zero),
                    (7, 25, Status.NONE)]  # fmt: skip


async def test_written_runs_of_whole_clusters_and_parts_read_back(seeded):
    _, driver = await in_memory()
    await driver.pwrite(CLUSTER + SUB, b"old" * 1000)
    first, second = seeded.randbytes(2 * CLUSTER), seeded.randbytes(SUB)
    await driver.pwrite_runs([(CLUSTER, first), (5 * CLUSTER, second)])
    assert bytes(await driver.pread(CLUSTER, 2 * CLUSTER)) == first
    assert bytes(await driver.pread(5 * CLUSTER, 2 * SUB)) == second + bytes(SUB)
    found = await check_image(driver.image)
    assert (found.corruptions, found.leaks) == (0, 0), found.messages


async def damaged(*patches, writes=((0, 2 * SUB),), read_only=False):
    storage, driver = await in_memory()
    for offset, length in writes:
        await driver.pwrite(offset, b"x" * length)
    await close_qcow2(driver)
    file = await storage.open("disk")
    for offset, fmt, *values in patches:
        await file.pwrite(offset, struct.pack(fmt, *values))
    await file.close()
    return await open_qcow2(storage, "disk", read_only=read_only)


@pytest.mark.parametrize(
    ("bitmap", "writes"),
    [
        (1 << 32 | 1, ((0, SUB),)),  # both allocated and zero
        (1, ((CLUSTER * 4, SUB),)),  # allocated in no cluster
        (1 << 32 | 1, ((CLUSTER * 4, SUB),)),
    ],
)
@pytest.mark.parametrize("command", ["read", "write", "write runs"])
async def test_impossible_bitmap_is_an_error_and_marks_the_image(bitmap, writes, command):
    driver = await damaged((L2_AT + 8, ">Q", bitmap), writes=writes)
    told = []
    driver.image.file.on_corruption = told.append
    request = {
        "read": lambda: driver.pread(0, KIB),
        "write": lambda: driver.pwrite(0, b"y" * KIB),
        "write runs": lambda: driver.pwrite_runs([(at * CLUSTER, b"y" * CLUSTER) for at in (0, 2)]),
    }[command]
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await request()
    assert [(report.msg, report.fatal) for report in told] == [
        (f"Invalid cluster entry found  (L2 offset: {L2_AT:#x}, L2 index: 0x0)", True)
    ]
    assert driver.image_specific()["data"]["corrupt"]


async def test_impossible_bitmap_read_only_fails_and_other_subclusters_are_read():
    driver = await damaged((L2_AT + 8, ">Q", 1 << 32 | 3), read_only=True)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await driver.pread(0, KIB)
    assert bytes(await driver.pread(SUB, SUB)) == b"x" * SUB
    assert bytes(await driver.pread(2 * SUB, SUB)) == bytes(SUB)


async def test_zero_bit_of_a_standard_entry_means_nothing():
    driver = await damaged((L2_AT + 7, ">B", 1))
    assert bytes(await driver.pread(0, SUB)) == b"x" * SUB
    await driver.pwrite(0, b"y" * KIB)
    assert bytes(await driver.pread(0, SUB)) == b"y" * KIB + b"x" * KIB
    await close_qcow2(driver)


async def test_misplaced_cluster_is_an_error_even_where_nothing_is_allocated():
    driver = await damaged((L2_AT + 6, ">B", 2), read_only=True)
    for offset in (0, 10 * SUB):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await driver.pread(offset, KIB)


@pytest.mark.parametrize("cluster_bits", [9, 13])
async def test_clusters_too_small_for_subclusters_are_refused(cluster_bits):
    storage = MemoryStorage()
    await create_qcow2(storage, "disk", 1 << 20, cluster_size=1 << cluster_bits)
    file = await storage.open("disk")
    await file.pwrite(72, struct.pack(">Q", 16))
    await file.close()
    with pytest.raises(QmpError) as error:
        await open_qcow2(storage, "disk")
    assert error.value.desc == f"Unsupported subcluster size: {1 << cluster_bits - 5}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster_size": 8192}, "cluster sizes of at least 16384 bytes"),
        ({"version": 2}, "compatibility level 1.1 and above (use version=v3 or greater)"),
    ],
)
async def test_creating_what_cannot_be_is_refused(options, message):
    with pytest.raises(QmpError) as error:
        await create_qcow2(MemoryStorage(), "disk", 1 << 20, extended_l2=True, **options)
    assert error.value.desc == f"Extended L2 entries are only supported with {message}"


# Beside QEMU


class Pair:
    """One image written by us, one by QEMU, with the same requests."""

    def __init__(self, directory, storage, size, cluster_size, base):
        self.ours, self.theirs = directory / "ours.qcow2", directory / "theirs.qcow2"
        self.storage, self.size, self.base, self.cluster_size = storage, size, base, cluster_size
        self.model = bytearray(size)
        if base is not None:
            self.model[:] = base.read_bytes()[:size].ljust(size, b"\0")

    async def create(self):
        backing = ["-b", self.base, "-F", "raw"] if self.base else []
        options = f"extended_l2=on,cluster_size={self.cluster_size}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing,
            self.theirs, self.size)  # fmt: skip
        named = {"backing_file": str(self.base), "backing_format": "raw"} if self.base else {}
        await create_qcow2(self.storage, self.ours, self.size, cluster_size=self.cluster_size,
                           extended_l2=True, **named)  # fmt: skip

    async def open(self):
        backing = None
        if self.base:
            backing = StorageChild(await self.storage.open(str(self.base), read_only=True))
        return await open_qcow2(self.storage, self.ours, backing=backing)

    async def close(self, driver):
        if self.base:
            await driver.image.backing.file.close()
        await close_qcow2(driver)

    async def request(self, driver, kind, offset, length, pattern):
        """Do a request on both; return QEMU's command."""
        place = f"{offset} {length}"
        zeroes = bytes(length)
        if kind == "write":
            self.model[offset : offset + length] = bytes([pattern]) * length
            await driver.pwrite(offset, bytes([pattern]) * length)
            return f"write -q -P {pattern} {place}"
        if kind in {"zero", "unmap"}:
            self.model[offset : offset + length] = zeroes
            flags = WriteFlags.MAY_UNMAP if kind == "unmap" else WriteFlags.NONE
            await driver.pwrite_zeroes(offset, length, flags)
            return f"write -q -z {'-u ' if kind == 'unmap' else ''}{place}"
        if kind == "compressed":
            self.model[offset : offset + length] = bytes([pattern]) * length
            await driver.pwrite(offset, bytes([pattern]) * length, WriteFlags.COMPRESSED)
            return f"write -q -c -P {pattern} {place}"
        self.model[offset : offset + length] = zeroes
        await driver.pdiscard(offset, length)
        return f"discard -q {place}"

    def check(self):
        for path in (self.ours, self.theirs):
            assert_clean(path)
            assert_content(path, bytes(self.model))
        assert l2_entries(self.ours) == l2_entries(self.theirs)


def random_request(rng, pair, compressible):
    """Return a request whose effect on bits is the same in QEMU as here."""
    size, cluster, sub = pair.size, pair.cluster_size, pair.cluster_size // 32
    kind = rng.choice(["write", "write", "write", "zero", "unmap", "discard", "compressed"])
    unit = rng.choice([512, sub, sub, cluster])
    if kind == "compressed":
        free = [n for n in compressible if (n + 1) * cluster <= size]
        if not free:
            kind = "write"
        else:
            number = rng.choice(free)
            return kind, number * cluster, cluster
    if kind == "discard":
        unit = cluster
    start = rng.randrange(size // unit) * unit
    length = rng.randrange(1, rng.choice([4, 40, 100])) * unit
    length = min(length, size - start, 5 * cluster)
    return kind, start, length


@pytest.mark.qemu
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("cluster_size", [16 * KIB, 64 * KIB])
async def test_random_requests_set_the_same_bits_as_in_qemu(
    image_dir, seeded, cluster_size, backed
):
    storage = make_storage()
    size = 10 * cluster_size + 3 * 512
    base = image_dir / "base.raw" if backed else None
    if base:
        base.write_bytes(seeded.randbytes(size - 5 * 512))
    pair = Pair(image_dir, storage, size, cluster_size, base)
    await pair.create()
    for _ in range(5):
        driver = await pair.open()
        commands = []
        touched = set(l2_entries(pair.ours))
        for _ in range(12):
            clusters = set(range(size // cluster_size)) - touched
            if not all("-c" in command for command in commands):
                # After freeing a compressed cluster, QEMU 7.2 packs the next into one in use.
                clusters.clear()
            request = random_request(seeded, pair, sorted(clusters))
            first, last = request[1] // cluster_size, (request[1] + request[2] - 1) // cluster_size
            touched |= set(range(first, last + 1))
            if request[0] in {"zero", "unmap"} and await compressed_in(driver, *request[1:]):
                continue  # there QEMU writes zeroes also where it could set bits
            pattern = seeded.randrange(1, 256)
            commands.append(await pair.request(driver, *request, pattern))
        await pair.close(driver)
        qemu_io(pair.theirs, *commands)
        print(commands)
        pair.check()
    storage.close()


async def compressed_in(driver, offset, length):
    size = driver.cluster_size
    start, end = offset & -size, min(-(-(offset + length) // size) * size, driver.length)
    extents = await driver.block_status(start, end - start)
    return any(extent.status & Status.COMPRESSED for extent in extents)
