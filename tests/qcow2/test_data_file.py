"""External data files: what lies where, what is refused, and that no stale byte is ever seen."""

import asyncio
import random
import struct

import pytest

from blkxact.block.types import ChildRole, Extent, Status, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.layout import AUTOCLEAR_RAW_DATA_FILE, COMPRESSED, COPIED, OFFSET_MASK
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.testing.loop import run_simulated
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

CLUSTER = 65536
MIB = 1 << 20
DATA = Status.DATA | Status.ALLOCATED


@pytest.fixture
def storage():
    return MemoryStorage()


async def new_disk(storage, size=MIB, *, stale=b"", base=None, discard=False, **options):
    """A disk whose data file holds ``stale`` bytes before anything was written."""
    await create_qcow2(storage, "disk", size, data_file="data", **options)
    if stale:
        storage.load("data", stale)
    backing = None
    if base is not None:
        storage.load("base", base)
        backing = StorageChild(await storage.open("base", read_only=True))
    return await open_qcow2(storage, "disk", data_file="data", backing=backing, discard=discard)


async def content(storage, name="data"):
    file = await storage.open(name, read_only=True)
    data = bytes(await file.pread(0, file.size()))
    await file.close()
    return data


async def assert_sound(driver):
    await driver.flush()
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages
    return found


async def test_data_goes_to_its_own_offset_in_the_data_file(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"first")
    await driver.pwrite(5 * CLUSTER + 7, b"second")
    await driver.pwrite_runs([(2 * CLUSTER, b"x" * CLUSTER), (9 * CLUSTER, b"y" * CLUSTER)])
    expected = bytearray(MIB)
    for offset, data in ((0, b"first"), (5 * CLUSTER + 7, b"second"),
                         (2 * CLUSTER, b"x" * CLUSTER), (9 * CLUSTER, b"y" * CLUSTER)):  # fmt: skip
        expected[offset : offset + len(data)] = data
    assert bytes(await driver.pread(0, MIB)) == bytes(expected)
    assert await content(storage) == bytes(expected)
    assert driver.children["file"].length <= 5 * CLUSTER
    assert (await assert_sound(driver)).allocated_clusters == 4
    await close_qcow2(driver)


async def test_block_status_tells_the_place_in_the_data_file(storage):
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * 3 * CLUSTER)
    file = driver.children["data-file"].file
    extents = await driver.block_status(0, MIB)
    assert extents == [
        Extent(0, 3 * CLUSTER, DATA, file, 0),
        Extent(3 * CLUSTER, 13 * CLUSTER, Status.NONE),
    ]
    await close_qcow2(driver)


async def test_file_holds_no_data_when_there_is_a_data_file(storage):
    driver = await new_disk(storage)
    assert driver.children["file"].role == ChildRole.METADATA | ChildRole.PRIMARY
    await close_qcow2(driver)


@pytest.mark.parametrize("base", [None, b"\2" * MIB])
async def test_stale_bytes_of_the_data_file_are_never_seen(storage, base):
    driver = await new_disk(storage, stale=b"\xee" * MIB, base=base)
    below = base or bytes(MIB)
    assert bytes(await driver.pread(0, MIB)) == below
    await driver.pwrite(CLUSTER + 10, b"new")
    expected = bytearray(below)
    expected[CLUSTER + 10 : CLUSTER + 13] = b"new"
    assert bytes(await driver.pread(0, MIB)) == bytes(expected)
    if base:
        await driver.image.backing.file.close()
    await close_qcow2(driver)


async def new_raw_disk_over(storage, data, size):
    """A disk over a data file that is there already."""
    storage.load("data", data)
    files = [await storage.create("disk"), await storage.open("data")]
    options = CreateOptions(size, data_file="data", data_file_raw=True)
    child, data_file = map(StorageChild, files)
    await create(child, options, data_file)
    for file in files:
        await file.close()
    return await open_qcow2(storage, "disk", data_file="data")


async def test_raw_data_file_that_holds_data_shows_it_at_once(storage):
    driver = await new_raw_disk_over(storage, b"\7" * (MIB // 2), MIB)
    assert bytes(await driver.pread(0, MIB)) == (b"\7" * (MIB // 2)).ljust(MIB, b"\0")
    assert len(await content(storage)) == MIB
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_raw_data_file_reads_as_the_disk_where_a_zero_cluster_grows(storage):
    driver = await new_raw_disk_over(storage, b"\xee" * 2 * MIB, MIB + 512)
    await driver.pwrite_zeroes(MIB, 512)
    await driver.truncate(MIB + CLUSTER)
    assert bytes(await driver.pread(MIB, CLUSTER)) == bytes(CLUSTER)
    assert (await content(storage))[MIB : MIB + CLUSTER] == bytes(CLUSTER)
    await close_qcow2(driver)


async def test_raw_data_file_without_preallocation_is_zeroed_with_its_cluster(storage):
    driver = await new_disk(storage, stale=b"\xee" * MIB)
    driver.image.header.autoclear |= AUTOCLEAR_RAW_DATA_FILE
    await driver.pwrite_zeroes(CLUSTER + 10, 100)
    assert bytes(await driver.pread(CLUSTER, CLUSTER)) == bytes(CLUSTER)
    assert (await content(storage))[CLUSTER : 2 * CLUSTER] == bytes(CLUSTER)
    await close_qcow2(driver)


async def test_last_cluster_does_not_make_the_data_file_longer_than_the_disk(storage):
    size = MIB + 1024
    driver = await new_disk(storage, size, data_file_raw=True)
    await driver.pwrite_zeroes(MIB, 1024)
    await driver.pwrite(MIB + 3, b"end")
    assert await content(storage) == bytes(MIB + 3) + b"end" + bytes(1018)
    await close_qcow2(driver)


@pytest.mark.parametrize("raw", [False, True])
async def test_resize_takes_the_data_file_along(storage, raw):
    driver = await new_disk(storage, data_file_raw=raw)
    await driver.pwrite(0, b"\1" * MIB)
    await driver.truncate(MIB // 2 + 512)
    assert len(await content(storage)) == MIB // 2 + 512
    await driver.truncate(2 * MIB)
    expected = (b"\1" * (MIB // 2 + 512)).ljust(2 * MIB, b"\0")
    assert bytes(await driver.pread(0, 2 * MIB)) == expected
    assert await content(storage) == expected
    await driver.pwrite(2 * MIB - 5, b"hello")
    assert (await content(storage))[-5:] == b"hello"
    await assert_sound(driver)
    await close_qcow2(driver)


@pytest.mark.parametrize("raw", [False, True])
async def test_discarded_cluster_is_let_go_and_can_be_written_again(storage, raw):
    driver = await new_disk(storage, discard=True, data_file_raw=raw)
    await driver.pwrite(0, b"\1" * MIB)
    before = driver.children["data-file"].file.allocated_size()
    await driver.pdiscard(CLUSTER, 4 * CLUSTER)
    assert driver.children["data-file"].file.allocated_size() <= before - 4 * CLUSTER
    await driver.pwrite(CLUSTER, b"\2" * CLUSTER)
    await driver.flush()
    expected = b"\1" * CLUSTER + b"\2" * CLUSTER + bytes(3 * CLUSTER) + b"\1" * (11 * CLUSTER)
    assert bytes(await driver.pread(0, MIB)) == expected
    assert await content(storage) == expected
    await close_qcow2(driver)


async def test_compressed_write_is_refused(storage):
    driver = await new_disk(storage)
    with pytest.raises(OSError, match="not supported"):
        await driver.pwrite(0, bytes(CLUSTER), WriteFlags.COMPRESSED)
    await close_qcow2(driver)


async def test_internal_snapshot_is_refused(storage):
    driver = await new_disk(storage)
    with pytest.raises(OSError, match="not supported"):
        await driver.internal_snapshots.create("one", date_us=0)
    await close_qcow2(driver)


async def test_backing_file_under_a_raw_data_file_is_refused(storage):
    driver = await new_disk(storage, data_file_raw=True)
    with pytest.raises(OSError, match="Invalid argument"):
        await driver.set_backing_file("base", "raw")
    assert driver.backing_file == ""
    await close_qcow2(driver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_file_raw": True}, "data-file-raw requires data-file"),
        (
            {"data_file": "d", "data_file_raw": True, "backing_file": "b"},
            "Backing file and data-file-raw cannot be used at the same time",
        ),
        (
            {"data_file": "d", "version": 2},
            (
                "External data files are only supported with compatibility level 1.1 and above "
                "(use version=v3 or greater)"
            ),
        ),
    ],
)
async def test_data_file_that_cannot_be_is_refused_at_creation(storage, options, message):
    with pytest.raises(QmpError) as refused:
        await create_qcow2(storage, "disk", MIB, **options)
    assert refused.value.desc == message


async def test_data_file_must_be_there_and_be_wanted(storage):
    await create_qcow2(storage, "disk", MIB, data_file="data")
    with pytest.raises(QmpError, match=r"^'data-file' is required for this image$"):
        await open_qcow2(storage, "disk")
    await create_qcow2(storage, "plain", MIB)
    with pytest.raises(
        QmpError, match=r"^'data-file' can only be set for images with an external data file$"
    ):
        await open_qcow2(storage, "plain", data_file="data")
    assert not storage.open_files


# Hostile


async def damaged(storage, index, entry):
    """A disk whose L2 table has one strange entry."""
    driver = await new_disk(storage)
    await driver.pwrite(0, b"\1" * CLUSTER)
    table = driver.map.l1[0] & OFFSET_MASK
    await close_qcow2(driver)
    file = await storage.open("disk")
    await file.pwrite(table + 8 * index, struct.pack(">Q", entry))
    await file.close()
    return await open_qcow2(storage, "disk", data_file="data")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (COPIED | 5 * CLUSTER, "does not match guest cluster offset: 0x30000"),
        (COPIED, "does not match guest cluster offset: 0x30000"),
        (COMPRESSED | 5 * CLUSTER, "Compressed cluster entry found"),
    ],
)
async def test_entry_that_cannot_lead_to_a_data_file_is_corrupt(storage, entry, message):
    driver = await damaged(storage, 3, entry)
    told = []
    driver.image.file.on_corruption = told.append
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pread(0, MIB)
    assert message in told[0].msg
    await close_qcow2(driver)


async def test_check_finds_a_compressed_cluster_with_a_data_file(storage):
    driver = await damaged(storage, 3, COMPRESSED | 5 * CLUSTER)
    found = await check_image(driver.image)
    assert found.corruptions == 1
    assert "compressed cluster 3 with data file" in found.messages[0]
    await close_qcow2(driver)


async def test_repair_sets_the_flag_of_a_cluster_that_lacks_it(storage):
    driver = await damaged(storage, 3, 3 * CLUSTER)
    assert (await check_image(driver.image)).corruptions == 1
    assert (await check_image(driver.image, repair=True)).corruptions_fixed == 1
    await assert_sound(driver)
    await close_qcow2(driver)


# Beside a model


class Round:
    """Random requests on one disk, and what it must hold."""

    def __init__(self, rng, *, raw, base, extended_l2=False):
        self.random = rng
        self.raw = raw
        self.size = rng.choice([40, 41]) * 4096 + 512 * rng.randrange(3)
        self.cluster_size = rng.choice([16384, 65536] if extended_l2 else [512, 4096, 16384])
        self.extended_l2 = extended_l2
        self.base = rng.randbytes(self.size) if base else None
        self.model = bytearray(self.base or bytes(self.size))
        self.options = {
            "cluster_size": self.cluster_size,
            "data_file_raw": raw,
            "extended_l2": extended_l2,
        }

    def range(self, first, end):
        start = self.random.randrange(first, end)
        return start, self.random.randrange(1, min(20000, end - start) + 1)

    async def requests(self, driver, first, end, count):
        for _ in range(count):
            offset, length = self.range(first, end)
            kind = self.random.random()
            if kind < 0.45:
                data = self.random.randbytes(length)
                await driver.pwrite(offset, data)
            elif kind < 0.65:
                data = bytes(length)
                flags = self.random.choice([WriteFlags.NONE, WriteFlags.MAY_UNMAP])
                await driver.pwrite_zeroes(offset, length, flags)
            elif kind < 0.8:
                size = self.cluster_size
                offset = min(offset - offset % size, end - size)
                if offset < first or offset % size:
                    continue
                data = bytes(size)
                await driver.pdiscard(offset, size)
            else:
                await driver.flush()
                assert bytes(await driver.pread(first, end - first)) == self.model[first:end]
                continue
            self.model[offset : offset + len(data)] = data


@pytest.mark.parametrize("kind", ["raw", "alone", "backed"])
@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("extended_l2", [False, True])
def test_random_requests_side_by_side_leave_what_the_model_has(
    sim_seed, kind, discard, extended_l2
):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        turn = Round(
            random.Random(sim_seed),
            raw=kind == "raw",
            base=kind == "backed",
            extended_l2=extended_l2,
        )
        driver = await new_disk(storage, turn.size, base=turn.base, discard=discard, **turn.options)
        third = max(1, turn.size // 3 // turn.cluster_size) * turn.cluster_size
        parts = [(0, third), (third, 2 * third), (2 * third, turn.size)]
        await asyncio.gather(*(turn.requests(driver, *part, 40) for part in parts))
        assert bytes(await driver.pread(0, turn.size)) == bytes(turn.model)
        await assert_sound(driver)
        held = await content(storage)
        assert len(held) == turn.size
        if turn.raw:
            assert held == bytes(turn.model)
        if turn.base:
            await driver.image.backing.file.close()
        await close_qcow2(driver)

    run_simulated(main(), sim_seed)


@pytest.mark.qemu
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("number", range(4))
async def test_disk_written_in_turns_with_qemu_is_the_same_to_both(image_dir, seeded, raw, number):
    storage = make_storage()
    turn = Round(seeded, raw=raw, base=False, extended_l2=number > 1)
    path, data = image_dir / "disk", image_dir / "data"
    if number % 2:
        await create_qcow2(storage, path, turn.size, data_file=data, **turn.options)
    else:
        words = f"data_file={data},cluster_size={turn.cluster_size}"
        words += f",data_file_raw={'on' if raw else 'off'}"
        words += f",extended_l2={'on' if turn.extended_l2 else 'off'}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, path, turn.size)
    for _ in range(2):
        driver = await open_qcow2(storage, path, data_file=data, discard=seeded.random() < 0.5)
        await turn.requests(driver, 0, turn.size, 20)
        await close_qcow2(driver)
        same_to_both(turn, path, data)
        commands = []
        for _ in range(5):
            offset, length = turn.range(0, turn.size)
            zero = seeded.random() < 0.4
            commands.append(f"write {'-z' if zero else '-P 9'} {offset} {length}")
            turn.model[offset : offset + length] = bytes([0 if zero else 9]) * length
        qemu_io(path, *commands)
        same_to_both(turn, path, data)
    driver = await open_qcow2(storage, path, data_file=data, read_only=True)
    assert bytes(await driver.pread(0, turn.size)) == turn.model
    await assert_sound(driver)
    await close_qcow2(driver)
    storage.close()


def same_to_both(turn, path, data):
    assert_clean(path)
    assert_content(path, bytes(turn.model))
    if turn.raw:
        assert data.read_bytes() == turn.model
