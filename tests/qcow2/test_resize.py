"""Growing and shrinking disks, and preallocation."""

import pytest

from blkxact.block.types import Status
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

CLUSTER = 65536
MIB = 1 << 20


@pytest.fixture
def storage():
    return MemoryStorage()


async def new_disk(storage, size, **options):
    await create_qcow2(storage, "disk", size, **options)
    return await open_qcow2(storage, "disk")


async def assert_sound(driver):
    await driver.flush()
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages


async def reopened(storage, driver):
    await close_qcow2(driver)
    return await open_qcow2(storage, "disk")


async def test_grown_part_reads_as_zeroes_and_can_be_written(storage):
    driver = await new_disk(storage, MIB)
    await driver.pwrite(MIB - 10, b"\1" * 10)
    await driver.truncate(4 << 30)
    assert driver.length == 4 << 30
    await driver.pwrite((4 << 30) - 5, b"\2" * 5)
    driver = await reopened(storage, driver)
    assert driver.length == 4 << 30
    assert bytes(await driver.pread(MIB - 10, 20)) == b"\1" * 10 + bytes(10)
    assert bytes(await driver.pread((4 << 30) - 6, 6)) == b"\0" + b"\2" * 5
    await assert_sound(driver)


async def test_growth_of_the_table_of_tables_keeps_what_is_not_yet_written_back(storage):
    driver = await new_disk(storage, MIB, cluster_size=512)
    for n in range(16):
        await driver.pwrite(n * CLUSTER, bytes([n + 1]) * 100)
    await driver.truncate(64 * MIB)
    driver = await reopened(storage, driver)
    for n in range(16):
        assert bytes(await driver.pread(n * CLUSTER, 100)) == bytes([n + 1]) * 100
    await assert_sound(driver)


async def test_disk_shrunk_and_grown_again_shows_nothing_of_its_past(storage):
    driver = await new_disk(storage, MIB)
    await driver.pwrite(0, b"\1" * MIB)
    await driver.truncate(CLUSTER + 512)
    await driver.truncate(MIB)
    expected = b"\1" * (CLUSTER + 512) + bytes(MIB - CLUSTER - 512)
    assert bytes(await driver.pread(0, MIB)) == expected
    await assert_sound(driver)


async def test_shrinking_frees_clusters_tables_and_the_tail_of_the_file(storage):
    driver = await new_disk(storage, 4 * MIB, cluster_size=512)
    await driver.pwrite(0, b"\1" * (4 * MIB))
    before = driver.children["file"].length
    await driver.truncate(CLUSTER)
    assert driver.children["file"].length < before // 8
    assert bytes(await driver.pread(0, CLUSTER)) == b"\1" * CLUSTER
    await assert_sound(driver)
    await driver.pwrite(100, b"\2" * 5000)
    driver = await reopened(storage, driver)
    assert driver.length == CLUSTER
    await assert_sound(driver)


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
async def test_preallocated_growth_has_a_place_for_every_cluster(storage, mode):
    driver = await new_disk(storage, MIB)
    await driver.pwrite(0, b"\1" * MIB)
    await driver.truncate(4 * MIB, prealloc=mode)
    assert all(e.status & Status.ALLOCATED for e in await driver.block_status(0, 4 * MIB))
    assert bytes(await driver.pread(0, 4 * MIB)) == b"\1" * MIB + bytes(3 * MIB)
    await driver.flush()
    requests = dict(storage.requests)
    await driver.pwrite(2 * MIB, b"x" * CLUSTER)
    await driver.flush()
    assert storage.requests["pwrite"] == requests["pwrite"] + 1, "only the data was written"
    await assert_sound(driver)


async def test_preallocation_into_freed_clusters_shows_nothing_of_their_past(storage):
    driver = await new_disk(storage, MIB)
    await driver.pwrite(0, b"\1" * MIB)
    await driver.pdiscard(0, MIB)
    await driver.flush()
    await driver.truncate(2 * MIB, prealloc="metadata")
    assert bytes(await driver.pread(0, 2 * MIB)) == bytes(2 * MIB)


@pytest.mark.parametrize(
    ("length", "prealloc", "message"),
    [
        (MIB + 100, "off", "The new size must be a multiple of 512"),
        (CLUSTER, "full", "Preallocation can't be used for shrinking an image"),
        (2 * MIB, "some", "Unsupported preallocation mode 'some'"),
        (1 << 60, "off", "Failed to grow the L1 table: File too large"),
    ],
)
async def test_resize_that_cannot_be_is_refused_in_qemus_words(storage, length, prealloc, message):
    driver = await new_disk(storage, MIB)
    with pytest.raises(QmpError) as error:
        await driver.truncate(length, prealloc=prealloc)
    assert error.value.desc == message
    assert driver.length == MIB
    await assert_sound(driver)


async def test_partial_last_cluster_over_a_backing_file_is_zeroed_when_the_disk_grows(storage):
    storage.load("base", b"\7" * MIB)
    await create_qcow2(storage, "disk", CLUSTER + 512)
    backing = StorageChild(await storage.open("base", read_only=True))
    driver = await open_qcow2(storage, "disk", backing=backing)
    await driver.pwrite(CLUSTER, b"\1" * 512)
    await driver.truncate(2 * CLUSTER)
    assert bytes(await driver.pread(CLUSTER, CLUSTER)) == b"\1" * 512 + bytes(CLUSTER - 512)
