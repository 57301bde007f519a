"""The sizes of caches that an open image is told to keep to."""

from __future__ import annotations

import pytest

from blkxact.block.types import WriteFlags
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.image import MAP_WINDOW_SLICES
from blkxact.testing.memory_file import MemoryStorage
from tests.environment import options_of

from .helpers import close_qcow2, create_qcow2, open_qcow2

CLUSTER = 512
SLICE = 64 * CLUSTER
"""Bytes of the disk that a slice of 64 entries maps."""
SLICES = 4 * MAP_WINDOW_SLICES
DISK = SLICES * SLICE
FEW = 2 * MAP_WINDOW_SLICES
"""As few slices as a cache ever has."""


@pytest.fixture
async def driver():
    storage = MemoryStorage()
    await create_qcow2(storage, "disk", DISK, cluster_size=CLUSTER)
    driver = await open_qcow2(storage, "disk")
    yield driver
    await close_qcow2(driver)


def reopen(driver: Qcow2Driver, **options: str) -> None:
    given = options_of(Qcow2Driver, {"file": None}, **options)
    driver.prepare_reopen(driver.context, given)()


async def touch_all(driver: Qcow2Driver) -> None:
    for offset in range(0, DISK, SLICE):
        await driver.pwrite(offset, bytes([1 + offset // SLICE % 255]) * CLUSTER, WriteFlags.NONE)
    await driver.flush()
    for offset in range(0, DISK, SLICE):
        assert bytes(await driver.pread(offset, 1)) == bytes([1 + offset // SLICE % 255])


@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ({}, SLICES),
        ({"l2_cache_size": "1k"}, FEW),
        ({"l2_cache_size": "100k"}, 200),
        ({"cache_size": "102k", "refcount_cache_size": "2k"}, 200),
    ],
)
async def test_cache_keeps_to_its_size_and_nothing_is_lost(driver, options, slices):
    reopen(driver, **options)
    await touch_all(driver)
    cached = [at for at in range(0, DISK, SLICE) if driver.map.missing(at, 1) is None]
    assert len(cached) == slices
    whole = await driver.pread(0, DISK)
    assert sum(map(bool, bytes(whole))) == SLICES * CLUSTER


async def test_reopen_without_sizes_has_the_default_again(driver):
    default = driver.map.max_slices
    reopen(driver, l2_cache_size="1k")
    assert driver.map.max_slices == FEW
    reopen(driver)
    assert driver.map.max_slices == default


async def test_refcount_cache_keeps_to_its_size(driver):
    default = driver.image.refcounts.blocks.max_blocks
    reopen(driver, refcount_cache_size="32k")
    assert driver.image.refcounts.blocks.max_blocks == 64
    await touch_all(driver)
    reopen(driver)
    assert driver.image.refcounts.blocks.max_blocks == default
