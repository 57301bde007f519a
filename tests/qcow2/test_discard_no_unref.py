"""discard-no-unref: clusters that are discarded or zeroed keep their places in the file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.block.types import WriteFlags
from blkxact.blockdev.image_create import create_image
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.create import CreateOptions
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.runs import Kind
from blkxact.errors import QmpError
from blkxact.testing.faults import Record
from tests.emulator import MIB, Emulator

CLUSTER = 65536


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("8.2")
    yield emulator
    await emulator.layer.shutdown()


async def add(emulator: Emulator, **create: Any) -> Qcow2Driver:
    """Make an image with data in its first four clusters and open it as ``a``."""
    how = CreateOptions(MIB, **create)
    await create_image(emulator.layer.blockdev, "/a.qcow2", "qcow2", size=MIB, options=how)
    await emulator.open("a", "/a.qcow2", discard="unmap", discard_no_unref=True)
    node = emulator.layer.find_node("a")
    await node.pwrite(0, b"x" * 4 * CLUSTER)
    await node.flush()
    assert isinstance(node.driver, Qcow2Driver)
    return node.driver


async def runs(driver: Qcow2Driver) -> list[tuple[Kind, int, int]]:
    """Return kind, place and length of what the disk consists of."""
    found = await driver.image.runs(0, 4 * CLUSTER)
    return [(run.kind, run.host if run.host >= 0 else -1, run.length) for run in found]


async def check(emulator: Emulator) -> None:
    """Find no mistake in the image, closed."""
    await emulator.execute("blockdev-del", node_name="a")
    await emulator.open("a", "/a.qcow2")
    driver = emulator.layer.find_node("a").driver
    assert isinstance(driver, Qcow2Driver)
    result = await check_image(driver.image)
    assert (result.corruptions, result.leaks) == (0, 0)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("extended", [False, True])
async def test_clusters_keep_their_places(emulator: Emulator, zero: bool, extended: bool) -> None:
    driver = await add(emulator, extended_l2=extended)
    ((kind, host, length),) = await runs(driver)
    assert (kind, length) == (Kind.NORMAL, 4 * CLUSTER)
    node = emulator.layer.find_node("a")
    record = Record(emulator.layer.points, "storage.discard")
    if zero:
        await node.pwrite_zeroes(CLUSTER, 2 * CLUSTER, WriteFlags.MAY_UNMAP)
    else:
        await node.pdiscard(CLUSTER, 2 * CLUSTER)
    assert await runs(driver) == [
        (Kind.NORMAL, host, CLUSTER),
        (Kind.ZERO_ALLOCATED, host + CLUSTER, 2 * CLUSTER),
        (Kind.NORMAL, host + 3 * CLUSTER, CLUSTER),
    ]
    passed = [(one.facts["offset"], one.facts["length"]) for one in record.passings]
    assert passed == [(host + CLUSTER, 2 * CLUSTER)]
    assert await node.pread(0, 4 * CLUSTER) == b"x" * CLUSTER + bytes(2 * CLUSTER) + b"x" * CLUSTER
    await node.pwrite(CLUSTER, b"y" * 2 * CLUSTER)
    assert await runs(driver) == [(Kind.NORMAL, host, 4 * CLUSTER)]
    await check(emulator)


async def test_cluster_that_a_snapshot_has_too_is_not_discarded_in_the_file(
    emulator: Emulator,
) -> None:
    """QEMU 10.0 discards it, and the snapshot has lost it."""
    driver = await add(emulator)
    node = emulator.layer.find_node("a")
    await emulator.execute("blockdev-snapshot-internal-sync", device="a", name="s")
    record = Record(emulator.layer.points, "storage.discard")
    await node.pdiscard(0, CLUSTER)
    assert record.passings == []
    assert (await runs(driver))[0][0] is Kind.ZERO_ALLOCATED
    await node.pwrite(0, b"y" * CLUSTER)
    assert driver.internal_snapshots is not None
    await driver.internal_snapshots.apply(driver.internal_snapshots.entries[0])
    assert await node.pread(0, CLUSTER) == b"x" * CLUSTER
    await check(emulator)


async def test_shrinking_frees_the_clusters(emulator: Emulator) -> None:
    driver = await add(emulator)
    await emulator.execute("block_resize", node_name="a", size=CLUSTER)
    await emulator.execute("block_resize", node_name="a", size=MIB)
    assert {kind for kind, *_ in (await runs(driver))[1:]} == {Kind.UNALLOCATED}


async def test_reopen_changes_it(emulator: Emulator) -> None:
    driver = await add(emulator)
    file = driver.children["file"].node.node_name
    options = {"driver": "qcow2", "node-name": "a", "file": file, "discard": "unmap"}
    await emulator.execute("blockdev-reopen", options=[options])
    await emulator.layer.find_node("a").pdiscard(0, CLUSTER)
    assert (await runs(driver))[0][0] is Kind.ZERO
    await emulator.execute("blockdev-reopen", options=[options | {"discard-no-unref": True}])
    await emulator.layer.find_node("a").pdiscard(CLUSTER, CLUSTER)
    assert (await runs(driver))[1][0] is Kind.ZERO_ALLOCATED


async def test_version_2_is_refused_as_by_qemu(emulator: Emulator) -> None:
    reason = r"^discard-no-unref is only supported since qcow2 version 3$"
    with pytest.raises(QmpError, match=reason):
        await add(emulator, version=2)


async def test_older_release_does_not_have_it(emulator: Emulator) -> None:
    emulator.emulate("7.2")
    with pytest.raises(QmpError, match=r"^Parameter 'discard-no-unref' is unexpected$"):
        await add(emulator)
