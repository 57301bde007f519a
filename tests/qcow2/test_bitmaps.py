"""Persistent bitmaps: stored, loaded, marked, removed; with and without QEMU."""

import errno
import json

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout_tables import pack_bitmap_directory
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.memory_file import MemoryStorage

from .helpers import (
    assert_clean,
    close_qcow2,
    create_qcow2,
    make_storage,
    open_qcow2,
    qemu_io,
    run,
)

MIB = 1 << 20


def bitmap(name, size, granularity, runs, *, enabled=True):
    made = DirtyBitmap(size, granularity, name)
    made.persistent = True
    made.enabled = enabled
    for offset, length in runs:
        made.mark(offset, length)
    return made


async def stored(storage, size, bitmaps, **options):
    await create_qcow2(storage, "disk", size, **options)
    driver = await open_qcow2(storage, "disk")
    await driver.store_bitmaps(bitmaps)
    await assert_sound(driver)
    await close_qcow2(driver)


async def assert_sound(driver):
    await driver.flush()
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
async def test_stored_bitmaps_are_loaded_as_they_were(seeded, cluster_size):
    storage = MemoryStorage()
    size = 300 * MIB + 512
    bitmaps = [
        bitmap("empty", size, 65536, []),
        bitmap("full", size, 512, [(0, size)]),
        bitmap("some", size, 4096, [(seeded.randrange(size - 9000), 9000) for _ in range(300)]),
        bitmap("off", size, 1 << 20, [(5 * MIB, 1)], enabled=False),
    ]
    await stored(storage, size, bitmaps, cluster_size=cluster_size)
    driver = await open_qcow2(storage, "disk", read_only=True)
    loaded = await driver.load_bitmaps()
    assert [b.sha256() for b in loaded] == [b.sha256() for b in bitmaps]
    assert [(b.name, b.granularity, b.enabled) for b in loaded] == [
        (b.name, b.granularity, b.enabled) for b in bitmaps
    ]
    assert all(b.read_only and b.persistent and not b.inconsistent for b in loaded)


@pytest.mark.parametrize("limit", [1, 1024, 1 << 20])
async def test_stored_clusters_are_loaded_together_as_far_as_they_follow(monkeypatch, limit):
    monkeypatch.setattr("blkxact.drivers.qcow2.bitmap_clusters.LOAD_BYTES", limit)
    storage = MemoryStorage()
    span = 512 * 8 * 4096  # what a cluster of a bitmap stands for
    size = 40 * span
    parts = [(number * span, span) for number in range(0, 40, 5)]
    parts += [(number * span + 5000, 100) for number in range(40) if number % 5 in {1, 2, 4}]
    made = bitmap("b", size, 4096, parts)
    await stored(storage, size, [made], cluster_size=512)
    driver = await open_qcow2(storage, "disk", read_only=True)
    (loaded,) = await driver.load_bitmaps()
    assert list(loaded.runs()) == list(made.runs())


async def test_bitmap_not_saved_before_the_end_is_inconsistent_after_it():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("b", MIB, 65536, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    (loaded,) = await driver.load_bitmaps()
    assert not loaded.inconsistent
    driver = await open_qcow2(storage.killed(), "disk")
    (found,) = await driver.load_bitmaps()
    assert found.inconsistent
    await driver.store_bitmaps([found])  # it is left alone
    assert driver.image_specific()["data"]["bitmaps"] == [
        {"name": "b", "granularity": 65536, "flags": ["in-use", "auto"]}
    ]
    await driver.remove_persistent_bitmap("b")
    assert "bitmaps" not in driver.image_specific()["data"]
    await assert_sound(driver)


async def test_bitmap_stored_again_replaces_what_was_there():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("b", MIB, 512, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    (loaded,) = await driver.load_bitmaps()
    loaded.mark(MIB - 1, 1)
    await driver.store_bitmaps([loaded, bitmap("new", MIB, 512, [])])
    await assert_sound(driver)
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    first, second = await driver.load_bitmaps()
    assert list(first.runs()) == [(0, 512), (MIB - 512, 512)]
    assert list(second.runs()) == []


async def test_bitmap_not_in_use_is_not_stored_over():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("b", MIB, 512, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(QmpError, match="Bitmap 'b' already exists in the image"):
        await driver.store_bitmaps([bitmap("b", MIB, 512, [])])
    await assert_sound(driver)


@pytest.mark.parametrize("skip", range(12))
async def test_failed_store_leaves_the_old_bitmaps_and_no_leak(skip):
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("old", MIB, 512, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    await driver.load_bitmaps()
    storage.faults.add(Fault("storage.pwrite", errno.ENOSPC, skip=skip))
    message = None
    try:
        await driver.store_bitmaps([bitmap("new", MIB, 512, [(0, MIB - 512)])])
    except QmpError as error:
        message = error.desc
    storage.faults.clear()
    assert message in {None, "Failed to update bitmap extension: No space left on device"}
    assert [entry.name for entry in driver.bitmaps.entries][:1] == ["old"]
    await assert_sound(driver)


async def test_open_without_loading_leaves_the_bitmaps_alone():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("b", MIB, 512, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(QmpError, match="persistent bitmaps that were not loaded"):
        await driver.truncate(2 * MIB)
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    assert not driver.bitmaps.entries[0].in_use


@pytest.mark.parametrize(
    ("name", "granularity", "options", "message"),
    [
        ("b", 1 << 32, {}, "Granularity exceeds maximum (2147483648 bytes)"),
        ("b", 256, {}, "Granularity is under minimum (512 bytes)"),
        ("b" * 1024, 65536, {}, "Name length exceeds maximum (1023 characters)"),
        ("b", 65536, {"version": 2}, "Cannot store dirty bitmaps in qcow2 v2 files"),
        ("b", 512, {"size": 4 << 40},
         "Too much space will be occupied by the bitmap. Use larger granularity"),
    ],
)  # fmt: skip
async def test_bitmap_that_cannot_be_kept_is_refused_in_qemus_words(
    name, granularity, options, message
):
    storage = MemoryStorage()
    await create_qcow2(storage, "disk", **{"size": MIB, **options})
    driver = await open_qcow2(storage, "disk")
    with pytest.raises(QmpError) as error:
        await driver.can_store_bitmap(name, granularity)
    assert error.value.desc == f"Can't make bitmap '{name}' persistent in 'node': {message}"


def info(path):
    data = json.loads(run("qemu-img", "info", "--output=json", path))
    return data["format-specific"]["data"].get("bitmaps", [])


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [512, 65536])
@pytest.mark.parametrize("size", [MIB, 300 * MIB + 512])
async def test_bitmaps_go_both_ways_between_qemu_and_us(image_dir, cluster_size, size):
    path = image_dir / "disk.qcow2"
    option = f"cluster_size={cluster_size}"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", option, path, size)
    run("qemu-img", "bitmap", "--add", "-g", "64k", path, "theirs")
    run("qemu-img", "bitmap", "--add", "--disable", "-g", "4k", path, "merged")
    qemu_io(path, "write -P 1 0 64k", "write -P 2 256k 100k")
    storage = make_storage()
    driver = await open_qcow2(storage, path)
    theirs, merged = await driver.load_bitmaps()
    assert list(theirs.runs()) == [(0, 65536), (262144, 131072)]
    assert (theirs.enabled, merged.enabled) == (True, False)
    assert info_in_use(path) == [True, True]
    ours = bitmap("ours", size, 4096, [(8192, size - 8192)])
    theirs.mark(size - 1, 1)
    await driver.store_bitmaps([theirs, merged, ours])
    await close_qcow2(driver)
    assert_clean(path)
    assert info(path) == [
        {"name": "theirs", "granularity": 65536, "flags": ["auto"]},
        {"name": "merged", "granularity": 4096, "flags": []},
        {"name": "ours", "granularity": 4096, "flags": ["auto"]},
    ]
    run("qemu-img", "bitmap", "--merge", "ours", path, "merged")
    run("qemu-img", "bitmap", "--merge", "theirs", path, "ours")
    assert_clean(path)
    driver = await open_qcow2(storage, path)
    found = {b.name: b for b in await driver.load_bitmaps()}
    assert list(found["merged"].runs()) == list(ours.runs())
    ours.merge(theirs)
    assert list(found["ours"].runs()) == list(ours.runs())
    for name in found:
        await driver.remove_persistent_bitmap(name)
    await close_qcow2(driver)
    storage.close()
    assert_clean(path)
    assert info(path) == []


def info_in_use(path):
    data = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
    return ["in-use" in b["flags"] for b in data["format-specific"]["data"]["bitmaps"]]


@pytest.mark.parametrize("again", ["flush", "close"])
async def test_bitmap_whose_removal_failed_leaves_the_image_with_the_next_flush_or_close(again):
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap(name, MIB, 65536, [(0, 1)]) for name in "ab"])
    driver = await open_qcow2(storage, "disk")
    bitmaps = {found.name: found for found in await driver.load_bitmaps()}
    storage.faults.add(Fault("storage.pwrite", errno.EIO, times=2))  # also in place
    with pytest.raises(QmpError, match="Failed to update bitmap extension: Input/output error"):
        await driver.remove_persistent_bitmap("a")
    assert [entry.name for entry in driver.bitmaps.entries] == ["a", "b"]
    await driver.store_bitmaps([bitmaps["b"]])
    if again == "flush":
        await driver.flush()
        storage = storage.killed()
    else:
        await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk")
    assert [entry.name for entry in driver.bitmaps.entries] == ["b"]
    found = await check_image(driver.image)
    assert found.corruptions == found.leaks == 0, found.messages
    await close_qcow2(driver)


async def test_bitmap_made_anew_after_a_failed_removal_stays():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("a", MIB, 65536, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    await driver.load_bitmaps()
    storage.faults.add(Fault("storage.pwrite", errno.EIO, times=2))  # also in place
    with pytest.raises(QmpError):
        await driver.remove_persistent_bitmap("a")
    await driver.store_bitmaps([bitmap("a", MIB, 4096, [(5000, 1)])])
    await driver.flush()
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    (found,) = await driver.load_bitmaps()
    assert (found.granularity, list(found.runs())) == (4096, [(4096, 4096)])


async def test_bitmaps_that_share_their_clusters_are_refused_before_all_is_read():
    """A directory of a few KiB could claim 65,535 bitmaps over the same half of the file."""
    storage = MemoryStorage()
    size = 300 * MIB
    dirty = [(at, 512) for at in range(0, size, 64 * 512)]
    small = [bitmap(name, size, 512, dirty[:1]) for name in ("b1", "b2", "b3")]
    await stored(storage, size, [bitmap("b0", size, 512, dirty), *small], cluster_size=512)
    driver = await open_qcow2(storage, "disk")
    real, *others = driver.bitmaps.entries
    shared = [one.changed(table_offset=real.table_offset) for one in others]
    place = driver.image.header.bitmaps
    await driver.image.file.child.pwrite(
        place.directory_offset, pack_bitmap_directory([real, *shared])
    )
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk", read_only=True)
    with pytest.raises(QmpError, match=r"^Could not read bitmap 'b[123]' from image: Inv"):
        await driver.load_bitmaps()
    await close_qcow2(driver)


async def test_bitmap_of_an_empty_disk_is_not_stored_and_the_image_opens():
    storage = MemoryStorage()
    await create_qcow2(storage, "disk", 0)
    driver = await open_qcow2(storage, "disk")
    await driver.can_store_bitmap("b", 65536)  # the disk may grow
    with pytest.raises(QmpError, match="Bitmap 'b' doesn't satisfy the constraints"):
        await driver.store_bitmaps([bitmap("b", 0, 65536, [])])
    await assert_sound(driver)
    await close_qcow2(driver)
    await close_qcow2(await open_qcow2(storage, "disk"))


async def test_bitmap_of_a_disk_that_became_empty_stays_in_use_and_the_image_opens():
    storage = MemoryStorage()
    await stored(storage, MIB, [bitmap("b", MIB, 65536, [(0, 1)])])
    driver = await open_qcow2(storage, "disk")
    (loaded,) = await driver.load_bitmaps()
    await driver.truncate(0)
    loaded.resize(0)
    with pytest.raises(QmpError, match="The disk has no bytes"):
        await driver.store_bitmaps([loaded])
    await close_qcow2(driver)
    driver = await open_qcow2(storage, "disk")
    assert [found.inconsistent for found in await driver.load_bitmaps()] == [True]
    await driver.remove_persistent_bitmap("b")
    await assert_sound(driver)
    await close_qcow2(driver)
