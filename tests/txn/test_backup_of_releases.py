"""What backups of newer releases of QEMU take."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest

from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from tests.emulator import Emulator

MIB = 1 << 20
BACKUP = {"device": "disk", "target": "target", "sync": "full", "job-id": "j"}
CBW = {"driver": "copy-before-write", "node-name": "c", "file": "disk", "target": "target"}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("11.1")
    for name in ("disk", "target"):
        await emulator.create_disk(name, 4 * MIB)
        await emulator.add_disk(name)
    yield emulator
    await emulator.layer.shutdown()


@pytest.mark.parametrize(
    ("size", "message"),
    [(3, "needs to be a power of 2"), (-1, f"too large: {2**64 - 1} > {2**63 - 1}")],
)
async def test_min_cluster_size_is_refused_as_by_qemu(
    emulator: Emulator, size: int, message: str
) -> None:
    """The texts are those of QEMU 10.0."""
    prefix = "Cannot create block-copy-state: min-cluster-size "
    with pytest.raises(QmpError) as caught:
        await emulator.execute_wire("blockdev-add", CBW | {"min-cluster-size": size})
    assert caught.value.desc == prefix + message
    with pytest.raises(QmpError) as caught:
        await emulator.execute_wire(
            "blockdev-backup", BACKUP | {"x-perf": {"min-cluster-size": size}}
        )
    before = "min-cluster-size " if size < 0 else f"Could not create node: {prefix}"
    assert caught.value.desc == before + message
    assert await emulator.execute("query-jobs") == []


async def test_min_cluster_size_is_the_unit_of_copying(emulator: Emulator) -> None:
    perf = {"min-cluster-size": MIB, "max-chunk": MIB // 2}
    with pytest.raises(QmpError, match=r"^Required max-chunk .* cluster size \(1048576\)$"):
        await emulator.execute_wire("blockdev-backup", BACKUP | {"x-perf": perf})


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
async def test_backup_whose_point_in_time_is_broken_fails(emulator: Emulator, policy: str) -> None:
    """A guest writes where the copy fails, and the backup must not claim what it does not have."""
    guest = emulator.plug("disk")
    await emulator.execute_wire("blockdev-backup", BACKUP | {"on-cbw-error": policy, "speed": 1})
    target = emulator.layer.graph.nodes["target"].address
    fault = Fault("request.write*", errno.EIO, {"node": target}, 3 * MIB, 4 * MIB)
    emulator.storage.faults.add(fault)
    wrote = True
    try:
        await guest.pwrite(3 * MIB, b"new")
    except OSError:
        wrote = False
    assert wrote is (policy == "break-snapshot")
    await emulator.execute("block-job-set-speed", device="j", speed=0)
    await emulator.layer.jobs["j"].wait()
    (done,) = emulator.named("BLOCK_JOB_COMPLETED")
    assert ("error" in done) is (policy == "break-snapshot")


async def test_members_are_unexpected_before_their_release(emulator: Emulator) -> None:
    emulator.emulate("7.2")
    for member in ({"on-cbw-error": "break-snapshot"}, {"x-perf": {"min-cluster-size": MIB}}):
        with pytest.raises(QmpError, match=r"is unexpected$"):
            await emulator.execute_wire("blockdev-backup", BACKUP | member)
