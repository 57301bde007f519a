"""Persistent bitmaps that are stored while the file cannot grow: in place, or known to be stale."""

import errno
import random

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.drivers.qcow2.check import check_image
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

MIB = 1 << 20
SIZE = 64 * MIB


def new_bitmap(name, granularity=512):
    made = DirtyBitmap(SIZE, granularity, name)
    made.persistent = True
    return made


async def image(names, storage=None):
    storage = storage or MemoryStorage()
    await create_qcow2(storage, "disk", SIZE, cluster_size=4096)
    driver = await open_qcow2(storage, "disk")
    bitmaps = [new_bitmap(name) for name in names]
    for number, bitmap in enumerate(bitmaps):
        bitmap.mark(number * 17 * MIB, MIB + 512)
    await driver.store_bitmaps(bitmaps, closing=True)
    await close_qcow2(driver)
    return storage


async def opened(storage):
    driver = await open_qcow2(storage, "disk")
    bitmaps = {bitmap.name: bitmap for bitmap in await driver.load_bitmaps()}
    await driver.flush()
    return driver, bitmaps


def fill_disk(storage, driver):
    storage.faults.add(
        Fault("storage.pwrite", errno.ENOSPC, start=driver.children["file"].length, times=None)
    )


async def found(storage, *, leaks=0):
    """Return granules of the bitmaps on disk by name, None for one in use."""
    driver = await open_qcow2(storage, "disk", read_only=True)
    result = await check_image(driver.image)
    assert result.corruptions == result.check_errors == 0, result.messages
    assert result.leaks <= leaks, result.messages
    bitmaps = {
        bitmap.name: None if bitmap.inconsistent else list(bitmap.runs())
        for bitmap in await driver.load_bitmaps()
    }
    await close_qcow2(driver)
    return bitmaps


async def test_bitmaps_on_a_full_disk_are_written_in_place_and_a_new_one_is_not_there():
    storage = await image(["keep", "other", "off"])
    driver, bitmaps = await opened(storage)
    fill_disk(storage, driver)
    other = bitmaps["other"]
    other.clear()
    other.mark(40 * MIB, 512)  # a cluster at another place
    bitmaps["off"].enabled = False
    new = new_bitmap("new")
    new.mark(0, SIZE - 512)
    with pytest.raises(QmpError, match="Failed to update bitmap extension: No space left"):
        await driver.store_bitmaps([*bitmaps.values(), new], closing=True)
    await close_qcow2(driver)
    assert await found(storage) == {
        "keep": [(0, MIB + 512)],
        "other": [(40 * MIB, 512)],
        "off": [(34 * MIB, MIB + 512)],
    }
    storage.faults.clear()
    driver, bitmaps = await opened(storage)
    assert [bitmaps[name].enabled for name in ("keep", "other", "off")] == [True, True, False]
    await close_qcow2(driver)


async def test_failure_of_a_node_that_stays_writable_leaves_all_in_use_and_no_new_one():
    storage = await image(["keep"])
    driver, bitmaps = await opened(storage)
    fill_disk(storage, driver)
    new = new_bitmap("new")
    new.mark(0, 512)
    for at in range(0, SIZE, 512 * 8 * 4096):
        new.mark(at, 512)
    bitmaps["keep"].mark(0, 3 * MIB)
    with pytest.raises(QmpError):
        await driver.store_bitmaps([*bitmaps.values(), new])
    assert await found(storage.killed()) == {"keep": None}
    storage.faults.clear()
    await driver.store_bitmaps([*bitmaps.values(), new])
    await close_qcow2(driver)
    kept = await found(storage)
    assert kept["keep"] == [(0, 3 * MIB)]
    assert list(kept) == ["keep", "new"]


async def test_bitmap_that_needs_more_room_than_there_is_stays_in_use_alone():
    storage = await image(["keep", "grown"])
    driver, bitmaps = await opened(storage)
    fill_disk(storage, driver)
    for at in range(0, SIZE, 2 * MIB):
        bitmaps["grown"].mark(at, 512)
    with pytest.raises(QmpError, match="No space left"):
        await driver.store_bitmaps(list(bitmaps.values()), closing=True)
    await close_qcow2(driver)
    assert await found(storage) == {"keep": [(0, MIB + 512)], "grown": None}


async def test_removal_on_a_full_disk_is_done_in_place():
    storage = await image(["keep", "gone"])
    driver, bitmaps = await opened(storage)
    fill_disk(storage, driver)
    await driver.remove_persistent_bitmap("gone")
    await driver.store_bitmaps([bitmaps["keep"]], closing=True)
    await close_qcow2(driver)
    assert await found(storage) == {"keep": [(0, MIB + 512)]}


async def test_bitmap_that_cannot_be_stored_for_another_reason_does_not_cost_the_others():
    storage = await image(["keep"])
    driver, bitmaps = await opened(storage)
    wrong = new_bitmap("x" * 1024)
    with pytest.raises(QmpError, match="doesn't satisfy the constraints"):
        await driver.store_bitmaps([*bitmaps.values(), wrong], closing=True)
    await close_qcow2(driver)
    assert await found(storage) == {"keep": [(0, MIB + 512)]}


async def test_no_bitmap_is_unmarked_while_the_image_can_be_written_to_after_any_failed_flush():
    refused = 0
    for skip in range(30):
        storage = await image(["keep"])
        driver, bitmaps = await opened(storage)
        storage.faults.add(Fault("storage.flush", errno.EIO, skip=skip, times=None))
        try:
            await driver.store_bitmaps(list(bitmaps.values()))
        except QmpError:
            pass
        else:
            break
        try:
            await driver.activate_write()  # as the undoing of a reopen does
        except QmpError:
            refused += 1
        try:
            await driver.pwrite(0, b"x")
        except OSError:
            continue
        claims = await found(storage.killed(), leaks=10)  # nothing: no valid directory
        assert claims in ({}, {"keep": None})
    assert skip > 1
    assert refused


def change(bitmap, source: random.Random):
    if source.random() < 0.3:
        bitmap.clear()
    for _ in range(source.randrange(6)):
        at = source.randrange(SIZE)
        bitmap.mark(at, min(SIZE - at, source.choice([1, MIB, 20 * MIB])))


@pytest.mark.parametrize("number", range(8))
async def test_crash_at_any_moment_on_a_full_disk_leaves_what_is_stored_true(seeded, number):
    del number
    storage = await image(["a", "b", "c"], MemoryStorage(history=True))
    storage.checkpoint()
    driver, bitmaps = await opened(storage)
    opening = len(storage.journal.events)
    fill_disk(storage, driver)
    before = {name: list(bitmap.runs()) for name, bitmap in bitmaps.items()}
    for name in "bc":
        change(bitmaps[name], seeded)
    now = {name: list(bitmap.runs()) for name, bitmap in bitmaps.items()}
    lost = False
    try:
        await driver.store_bitmaps(list(bitmaps.values()), closing=True)
    except QmpError:
        lost = True
    await close_qcow2(driver)
    kept = await found(storage)
    assert kept["a"] == before["a"]
    assert all(kept[name] in (now[name], None) for name in now)
    assert lost == (None in kept.values())
    for at, crashed in enumerate(storage.crashes(seeded)):
        claims = await found(crashed, leaks=10_000)
        if at > opening:
            assert all(runs in (None, now[name]) for name, runs in claims.items()), at
