"""Internal snapshots: whatever fails, and whenever the power goes, disk and snapshots are whole."""

import errno

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout import OFFSET_MASK
from blkxact.testing.faults import Fault
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

CLUSTER = 512
SIZE = 100 * CLUSTER
OLD = b"\1" * 60 * CLUSTER + bytes(40 * CLUSTER)
NEW = b"\2" * 30 * CLUSTER + OLD[30 * CLUSTER :]
PATH = "disk"
STEPS = ("create", "apply", "delete")


async def make_disk(storage, **options):
    """Return a disk that holds ``NEW`` and has a snapshot of ``OLD``."""
    options.setdefault("cluster_size", CLUSTER)
    await create_qcow2(storage, PATH, SIZE, **options)
    driver = await open_qcow2(storage, PATH)
    await driver.pwrite(0, OLD)
    await driver.internal_snapshots.create("old", date_us=0)
    await driver.pwrite(0, NEW)
    await driver.flush()
    return driver


async def do(driver, step):
    snapshots = driver.internal_snapshots
    if step == "create":
        await snapshots.create("new", date_us=0)
    elif step == "apply":
        await snapshots.apply(snapshots.entries[0])
    else:
        await snapshots.delete(snapshots.entries[0])


async def content(driver):
    return bytes(await driver.pread(0, SIZE))


async def problems(driver):
    await driver.flush()
    found = await check_image(driver.image)
    return found.leaks, found.corruptions, found.check_errors


async def snapshot_contents(storage):
    """Return what each snapshot holds, as a read-only image shows it."""
    held = {}
    number = 0
    while True:
        driver = await open_qcow2(storage, PATH, read_only=True)
        entries = driver.internal_snapshots.entries
        if number < len(entries):
            await driver.internal_snapshots.look_at(entries[number])
            held[entries[number].name] = await content(driver)
        await close_qcow2(driver)
        number += 1
        if number > len(entries):
            return held


async def test_snapshot_keeps_what_is_overwritten_and_comes_back():
    storage = MemoryStorage()
    driver = await make_disk(storage)
    assert await content(driver) == NEW
    await do(driver, "create")
    await do(driver, "apply")
    assert await content(driver) == OLD
    assert await problems(driver) == (0, 0, 0)
    await driver.pwrite(0, bytes(10 * CLUSTER))
    await close_qcow2(driver)
    assert await snapshot_contents(storage) == {"old": OLD, "new": NEW}


async def test_snapshots_all_deleted_leave_every_cluster_to_the_disk():
    storage = MemoryStorage()
    driver = await make_disk(storage)
    await do(driver, "create")
    await do(driver, "delete")
    await do(driver, "delete")
    assert await problems(driver) == (0, 0, 0)
    assert all(entry >> 63 for entry in driver.map.l1 if entry)
    assert await content(driver) == NEW
    await close_qcow2(driver)


async def test_snapshot_ids_are_not_given_twice_while_in_use():
    driver = await make_disk(MemoryStorage())
    await do(driver, "create")
    await do(driver, "delete")
    await do(driver, "create")
    assert [entry.id for entry in driver.internal_snapshots.entries] == ["2", "3"]
    await close_qcow2(driver)


async def test_snapshot_that_a_count_cannot_hold_changes_nothing():
    storage = MemoryStorage()
    await create_qcow2(storage, PATH, SIZE, cluster_size=CLUSTER, refcount_bits=1)
    driver = await open_qcow2(storage, PATH)
    await driver.pwrite(0, NEW)
    with pytest.raises(OSError, match="Invalid argument"):
        await driver.internal_snapshots.create("new", date_us=0)
    assert await problems(driver) == (0, 0, 0)
    assert await content(driver) == NEW
    await close_qcow2(driver)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("operation", ["pwrite", "pread"])
@pytest.mark.parametrize("step", STEPS)
async def test_snapshot_step_that_fails_leaves_disk_and_snapshots_whole(step, operation, version):
    struck = 0
    for skip in range(60):
        storage = MemoryStorage()
        driver = await make_disk(storage, version=version)
        fault = Fault(f"storage.{operation}", errno.EIO, {"path": PATH}, skip=skip)
        storage.faults.add(fault)
        try:
            await do(driver, step)
        except OSError:
            struck += 1
        storage.faults.clear()
        if driver.image.file.dead:
            continue
        _, corruptions, errors = await problems(driver)
        assert (corruptions, errors) == (0, 0), skip
        assert await content(driver) in ((OLD, NEW) if step == "apply" else (NEW,)), skip
        await close_qcow2(driver)
        held = await snapshot_contents(storage)
        assert held.get("old", OLD) == OLD, skip
        assert held.get("new", NEW) == NEW, skip
        assert step == "delete" or "old" in held, skip
    assert struck


@pytest.mark.parametrize("step", STEPS)
async def test_snapshot_step_cut_off_by_a_crash_leaves_disk_and_snapshots_whole(step):
    storage = MemoryStorage(history=True)
    driver = await make_disk(storage)
    storage.checkpoint()
    await do(driver, step)
    states = 0
    for crashed in storage.crashes():
        states += 1
        held = await snapshot_contents(crashed)
        assert held.get("old", OLD) == OLD, states
        assert held.get("new", NEW) == NEW, states
        # The next writer repairs what the mark says may be wrong.
        again = await open_qcow2(crashed, PATH)
        assert await content(again) in ((OLD, NEW) if step == "apply" else (NEW,)), states
        _, corruptions, errors = await problems(again)
        assert (corruptions, errors) == (0, 0), states
        await again.pwrite(0, b"\5" * SIZE)
        await close_qcow2(again)
        held = await snapshot_contents(crashed)
        assert held.get("old", OLD) == OLD, states
    assert states > 10
    await close_qcow2(driver)


@pytest.mark.parametrize("step", STEPS)
async def test_snapshot_step_on_a_table_that_leads_nowhere_is_refused(step):
    storage = MemoryStorage()
    driver = await make_disk(storage)
    table = driver.map.l1[0] & OFFSET_MASK
    old = (await driver.image.file.read_table(driver.image.snapshots[0].l1_table_offset, 1))[0]
    await close_qcow2(driver)
    file = await storage.open(PATH)
    for place in (table, old & OFFSET_MASK):
        await file.pwrite(place, (1 << 50).to_bytes(8, "big"))
    await file.close()
    driver = await open_qcow2(storage, PATH)
    with pytest.raises(OSError, match="Input/output error"):
        await do(driver, step)
    assert driver.image.file.dead
