"""Crashes while an internal snapshot changes counts and flags, also without a dirty bit."""

import random

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.unfinished import is_marked
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, open_qcow2
from .test_snapshots import NEW, OLD, PATH, STEPS, content, do, make_disk


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("version", [2, 3])
async def test_next_writer_after_a_crash_at_any_moment_sets_counts_and_flags_right(
    seeded, step, version
):
    storage = MemoryStorage(random.Random(seeded.random()), history=True)
    driver = await make_disk(storage, version=version)
    storage.checkpoint()
    await do(driver, step)
    await close_qcow2(driver)
    marked = 0
    for crashed in storage.crashes(seeded):
        driver = await open_qcow2(crashed, PATH, read_only=True)
        unfinished = is_marked(driver.image.header)
        marked += unfinished
        found = await check_image(driver.image)
        assert unfinished or not found.corruptions, found.messages
        await close_qcow2(driver)
        driver = await open_qcow2(crashed, PATH)
        found = await check_image(driver.image)
        assert found.corruptions == found.check_errors == 0, found.messages
        assert not is_marked(driver.image.header)
        assert await content(driver) in (OLD, NEW)
        await close_qcow2(driver)
    assert marked


async def test_image_with_a_long_backing_name_is_not_marked_with_a_header_that_may_tear():
    storage = MemoryStorage()
    driver = await make_disk(storage, version=2, cluster_size=4096)
    driver.image.header.backing_file = "b" * 1000
    await do(driver, "create")
    assert not is_marked(driver.image.header)
    await close_qcow2(driver)
