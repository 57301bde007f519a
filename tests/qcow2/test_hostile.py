"""Images that are damaged or made to do harm: a clear error, nothing written, memory bounded."""

import errno
import os
import struct

import pytest

from blkxact.drivers.qcow2 import layout
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.image import open_image
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryFile, MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

MIB = 1 << 20
CLUSTER = 65536
L1_AT = 3 * CLUSTER
L2_AT = 4 * CLUSTER


@pytest.fixture
def storage():
    return MemoryStorage()


async def image_with(storage, *patches, data=True, **options):
    """An image with a written first cluster, and then bytes of it changed."""
    await create_qcow2(storage, "disk", MIB, **options)
    if data:
        driver = await open_qcow2(storage, "disk")
        await driver.pwrite(0, b"\1" * CLUSTER)
        await close_qcow2(driver)
    file = await storage.open("disk")
    for offset, fmt, *values in patches:
        await file.pwrite(offset, struct.pack(fmt, *values))
    await file.close()
    storage.checkpoint()


def written(storage):
    return storage.requests.get("pwrite", 0) + storage.requests.get("write_zeroes", 0)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((0, ">I", 0), "Image is not in qcow2 format"),
        ((32, ">I", 1), "Encrypted qcow2 images are not supported"),
        ((36, ">I", 0), "L1 table is too small"),
        ((36, ">I", 0x7FFFFFFF), "Active L1 table too large"),
        ((40, ">Q", L1_AT + 1), "Active L1 table offset invalid"),
        ((40, ">Q", 1 << 63), "Active L1 table offset invalid"),
        ((24, ">Q", (1 << 63) - 512), "Image is too big"),
        ((24, ">Q", 1 << 40), "L1 table is too small"),
        ((48, ">Q", 77), "Reference count table offset invalid"),
        ((56, ">I", 0), "Image does not contain a reference count table"),
        ((56, ">I", 1000), "Reference count table too large"),
        ((60, ">IQ", 65537, CLUSTER), "Snapshot table too large"),
        ((60, ">IQ", 1, 5), "Snapshot table offset invalid"),
        ((72, ">Q", 1 << 10), "Unsupported qcow2 feature(s): Unknown incompatible feature: 400"),
        ((96, ">I", 7), "Reference count entry width too large; may not exceed 64 bits"),
        ((104, ">B", 1), "qcow2: Compression type incompatible feature bit must be set"),
        ((104, ">B", 9), "qcow2: unknown compression type: 9"),
        ((88, ">Q", 2), "data-file-raw requires a data file"),
        ((72, ">Q", 2), "qcow2: Image is corrupt; cannot be opened read/write"),
    ],
)
async def test_open_refuses_what_cannot_be_in_qemus_words(storage, patch, message):
    await image_with(storage, patch)
    before = written(storage)
    with pytest.raises(QmpError) as error:
        await open_qcow2(storage, "disk")
    assert error.value.desc == message
    assert written(storage) == before
    assert not storage.open_files


async def test_empty_file_is_no_image(storage):
    await (await storage.create("disk")).close()
    with pytest.raises(QmpError, match="Image is not in qcow2 format"):
        await open_qcow2(storage, "disk")


async def test_corrupt_image_may_be_read(storage):
    await image_with(storage, (72, ">Q", layout.INCOMPATIBLE_CORRUPT))
    driver = await open_qcow2(storage, "disk", read_only=True)
    assert bytes(await driver.pread(0, 4)) == b"\1" * 4
    assert driver.image_specific()["data"]["corrupt"] is True


async def incompatible_features(storage):
    file = await storage.open("disk", read_only=True)
    return struct.unpack(">Q", await file.pread(72, 8))[0]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((L1_AT, ">Q", layout.COPIED | (L2_AT + 512)),
         "L2 table offset 0x40200 unaligned (L1 index: 0x0)"),
        ((L2_AT, ">Q", layout.COPIED | (5 * CLUSTER + 512)),
         "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0x0)"),
    ],
)  # fmt: skip
async def test_reading_through_a_damaged_table_marks_the_image_and_ends_its_use(
    storage, patch, message
):
    await image_with(storage, patch)
    driver = await open_qcow2(storage, "disk")
    told = []
    driver.image.file.on_corruption = told.append
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await driver.pread(0, 512)
    assert [(report.msg, report.fatal) for report in told] == [(message, True)]
    assert await incompatible_features(storage) == layout.INCOMPATIBLE_CORRUPT
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEDIUM)):
        await driver.pwrite(0, b"x")
    await close_qcow2(driver)


async def test_reading_a_damaged_image_read_only_writes_nothing(storage):
    await image_with(storage, (L1_AT, ">Q", layout.COPIED | (L2_AT + 512)))
    driver = await open_qcow2(storage, "disk", read_only=True)
    before = written(storage)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            await driver.pread(0, 512)
    assert written(storage) == before


async def test_zero_cluster_in_version_2_is_corruption(storage):
    await image_with(storage, (L2_AT, ">Q", 1), version=2)
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pread(0, 512)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (0, "qcow2_header"),
        (CLUSTER, "refcount table"),
        (2 * CLUSTER, "refcount block"),
        (L1_AT, "active L1 table"),
        (L2_AT, "active L2 table"),
    ],
)
async def test_guest_cannot_write_over_metadata(storage, place, name):
    entry = layout.COPIED | place
    await image_with(storage, (L2_AT, ">Q", entry))
    driver = await open_qcow2(storage, "disk")
    told = []
    driver.image.file.on_corruption = told.append
    if place == 0:  # an entry of zero is no cluster; the guest gets a new one
        await driver.pwrite(0, b"x" * 512)
        return
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite(0, b"x" * 512)
    expected = f"Preventing invalid write on metadata (overlaps with {name})"
    assert [(report.msg, report.offset) for report in told] == [(expected, place)]


async def test_guest_cannot_write_beyond_the_end_of_the_file(storage):
    await image_with(storage, (L2_AT, ">Q", layout.COPIED | 1 << 50))
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite(0, b"x" * 512)
    assert driver.children["file"].length < 1 << 20


@pytest.mark.parametrize("first_free", [0, 1, 2, 3, 4])
async def test_metadata_that_the_counts_call_free_is_not_taken(storage, first_free):
    """Reference counts that were lost must not give a table's cluster to a guest."""
    await image_with(storage, (2 * CLUSTER + 2 * first_free, ">H", 0))
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite(CLUSTER, b"x" * 512)
    assert await incompatible_features(storage) == layout.INCOMPATIBLE_CORRUPT


async def test_misaligned_refcount_block_is_corruption(storage):
    await image_with(storage, (CLUSTER, ">Q", 2 * CLUSTER + 512))
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite(CLUSTER, b"x" * 512)


async def test_compressed_cluster_of_garbage_cannot_be_read(storage):
    await image_with(storage, (L2_AT, ">Q", layout.COMPRESSED | 5 << 54 | 5 * CLUSTER))
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pread(0, 512)
    assert not driver.image.file.dead, "data is damaged, not the tables"


async def test_unknown_autoclear_features_are_cleared_by_a_writer_only(storage):
    await image_with(storage, (88, ">Q", 1 << 20))
    await close_qcow2(await open_qcow2(storage, "disk", read_only=True))
    file = await storage.open("disk", read_only=True)
    assert (await file.pread(88, 8)) == struct.pack(">Q", 1 << 20)
    await close_qcow2(await open_qcow2(storage, "disk"))
    assert (await file.pread(88, 8)) == bytes(8)


async def test_dirty_image_is_repaired_by_a_writer(storage):
    lost = (2 * CLUSTER + 2 * 5, ">H", 0)  # the count of the data cluster
    await image_with(storage, lost, (72, ">Q", layout.INCOMPATIBLE_DIRTY))
    driver = await open_qcow2(storage, "disk", read_only=True)
    assert driver.dirty_flag
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk")
    assert not driver.dirty_flag
    assert await driver.image.refcounts.get(5) == 1
    await driver.pwrite(CLUSTER, b"x")
    assert driver.map.find(CLUSTER, 1) != 5 * CLUSTER
    await close_qcow2(driver)


async def test_random_damage_ends_in_clear_errors(storage, seeded):
    """Whatever bytes are wrong: QmpError at opening or OSError later, and bounded files."""
    await image_with(storage)
    sound = bytes(await (await storage.open("disk", read_only=True)).pread(0, 6 * CLUSTER))
    places = [*range(112), *range(CLUSTER, CLUSTER + 16), *range(2 * CLUSTER, 2 * CLUSTER + 16)]
    places += [*range(L1_AT, L1_AT + 16), *range(L2_AT, L2_AT + 16)]
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(seeded.randrange(1, 4)):
            damaged[seeded.choice(places)] = seeded.choice([0, 1, 0x7F, 0x80, 0xFF])
        storage.load("disk", bytes(damaged))
        try:
            driver = await open_qcow2(storage, "disk")
        except QmpError:
            continue
        try:
            length = min(driver.length, MIB)
            await driver.pread(0, length)
            await driver.pwrite(0, bytes(min(length, 3 * CLUSTER)))
            await driver.block_status(0, length)
            await driver.flush()
        except OSError:
            pass
        finally:
            await close_qcow2(driver)


async def test_open_leaves_no_file_open_when_it_fails_below(storage):
    await image_with(storage)
    child = StorageChild(await storage.open("disk"))

    async def pread(offset, length):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    child.pread = pread
    with pytest.raises(QmpError, match="Could not read qcow2 header: Input/output error"):
        await open_qcow2(storage, "disk", child=child)


class CountingFile:
    """Counts the bytes that are read from files."""

    def __init__(self, monkeypatch):
        self.read = 0
        pread = MemoryFile.pread

        def counting(file, offset, length):
            self.read += length
            return pread(file, offset, length)

        monkeypatch.setattr(MemoryFile, "pread", counting)


async def test_l1_table_that_leads_a_thousand_times_to_one_table_is_not_followed(
    storage, monkeypatch
):
    """What a check or a snapshot reads is bounded by the file, not by what its tables claim."""
    await image_with(storage)
    entries = 4096
    file = await storage.open("disk")
    end = file.size()
    await file.pwrite(end, struct.pack(">Q", L2_AT) * entries)
    await file.pwrite(36, struct.pack(">IQ", entries, end))
    await file.close()
    counter = CountingFile(monkeypatch)
    child = StorageChild(await storage.open("disk", read_only=True))
    image = await open_image({"file": child}, writable=False, checking=True)
    result = await check_image(image)
    assert (result.check_errors, result.messages) == (
        1, ["ERROR The L1 table leads to more L2 tables than the file can hold"],
    )  # fmt: skip
    await child.file.close()
    assert counter.read < 128 * CLUSTER
    driver = await open_qcow2(storage, "disk")
    counter.read = 0
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await driver.internal_snapshots.create("s", date_us=0)
    assert counter.read < 16 * CLUSTER


async def test_snapshot_of_an_impossible_disk_can_be_deleted_but_not_applied(storage):
    await create_qcow2(storage, "disk", MIB)
    driver = await open_qcow2(storage, "disk")
    await driver.internal_snapshots.create("s", date_us=0)
    (snapshot,) = driver.internal_snapshots.entries
    snapshot.disk_size = 1 << 62
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        await driver.internal_snapshots.apply(snapshot)
    await driver.internal_snapshots.delete(snapshot)
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    snapshot.l1_table_offset = 0
    driver.image.snapshots.append(snapshot)
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        await driver.internal_snapshots.look_at(snapshot)
