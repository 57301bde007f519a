"""The throttle filter, throttled devices, and their commands, in a whole emulator."""

import asyncio
import random

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.drain import drained
from blkxact.block.types import Permission
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.runtime.clock import SteppedClock, SystemClock
from blkxact.runtime.events import EventSink
from blkxact.testing.waiting import until_idle
from tests.system.conftest import MIB, Emulator

KIB = 1024
NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
async def emulator(clock):
    emulator = Emulator()
    sink = EventSink(SystemClock())
    sink.subscribe(emulator.events.append)
    time = SystemClock(virtual=clock)
    emulator.use(BlockLayer(emulator.storage, time, sink, rng=random.Random(1)))
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await group(emulator, "g", bps_total=MIB)
    await emulator.execute(
        "blockdev-add", driver="throttle", node_name="t", throttle_group="g", file="disk"
    )
    return emulator


async def group(emulator, name, **limits):
    wired = {key.replace("_", "-"): value for key, value in limits.items()}
    await emulator.execute("object-add", qom_type="throttle-group", id=name, limits=wired)


async def limit_device(emulator, **limits):
    await emulator.execute_wire("block_set_io_throttle", {"id": "d"} | NO_LIMITS | limits)


def writer(emulator, node):
    perm = Permission.CONSISTENT_READ | Permission.WRITE
    backend = BlockBackend(emulator.layer.graph, perm=perm)
    backend.insert(emulator.layer.find_node(node))
    return backend


async def test_request_beyond_the_limit_waits_for_the_clock(emulator, clock):
    node = writer(emulator, "t")
    await node.pwrite(0, bytes(MIB))
    second = asyncio.create_task(node.pwrite(0, b"x" * MIB))
    await until_idle()
    assert not second.done()
    clock.move(2 * 10**9)
    await second
    read = asyncio.create_task(node.pread(0, 1))
    clock.move(4 * 10**9)
    assert bytes(await read) == b"x"


async def test_drain_of_the_node_below_lets_held_requests_go(emulator):
    node = writer(emulator, "t")
    await node.pwrite(0, bytes(MIB))
    writes = [asyncio.create_task(node.pwrite(0, bytes(KIB))) for _ in range(3)]
    await until_idle()
    async with drained([emulator.layer.find_node("disk")]):
        assert all(write.done() for write in writes)
    held = asyncio.create_task(node.pwrite(0, bytes(KIB)))
    await until_idle()
    assert not held.done()
    emulator.layer.throttle_groups.let_go()
    await held


async def test_copy_through_the_filter_is_throttled_too(emulator, clock):
    await emulator.qemu_io("disk", "write 0 4M")
    await emulator.create_disk("target")
    await emulator.add_disk("target")
    clock.move(10**9 * 100)
    await emulator.execute("blockdev-backup", device="t", target="target", sync="full", job_id="j")
    await until_idle()
    job = emulator.layer.jobs["j"]
    for seconds in range(101, 120):
        await until_idle()
        if job.completed:
            break
        clock.move(10**9 * seconds)
    await job.wait()
    await until_idle()
    assert 103 <= seconds <= 108
    assert emulator.named("BLOCK_JOB_COMPLETED")[0]["offset"] == 8 * MIB


async def test_shutdown_does_not_wait_for_throttled_jobs(emulator):
    await emulator.qemu_io("disk", "write 0 4M")
    await emulator.create_disk("target")
    await emulator.add_disk("target")
    await emulator.execute("blockdev-backup", device="t", target="target", sync="full", job_id="j")
    await until_idle()
    await asyncio.wait_for(emulator.layer.shutdown(), 30)
    assert not emulator.layer.graph.nodes


async def test_compressed_writes_pass_where_the_child_takes_them(emulator):
    assert emulator.layer.find_node("t").driver.supports_compressed_writes
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    await emulator.execute(
        "blockdev-add", driver="throttle", node_name="t2", throttle_group="g", file="n"
    )
    assert not emulator.layer.find_node("t2").driver.supports_compressed_writes


async def test_reopen_changes_the_group_and_frees_the_old_one(emulator):
    await group(emulator, "other")
    options = {"driver": "throttle", "node-name": "t", "file": "disk"}
    with pytest.raises(QmpError, match="Throttle group 'none' does not exist"):
        await emulator.execute("blockdev-reopen", options=[{**options, "throttle-group": "none"}])
    await emulator.execute("blockdev-reopen", options=[{**options, "throttle-group": "other"}])
    await emulator.execute("object-del", id="g")
    with pytest.raises(QmpError, match="object 'other' is in use"):
        await emulator.execute("object-del", id="other")


async def test_failed_reopen_of_several_nodes_leaves_the_group(emulator):
    await group(emulator, "other")
    options = {"driver": "throttle", "node-name": "t", "file": "disk", "throttle-group": "other"}
    with pytest.raises(QmpError):
        await emulator.execute(
            "blockdev-reopen",
            options=[options, {"driver": "qcow2", "node-name": "none", "file": "f"}],
        )
    await emulator.execute("object-del", id="other")


async def test_closed_node_leaves_its_group(emulator):
    with pytest.raises(QmpError, match=r"^object 'g' is in use, can not be deleted$"):
        await emulator.execute("object-del", id="g")
    emulator.emulate("11.1")
    with pytest.raises(
        QmpError, match=r"^Cannot delete throttle group 'g' with active references$"
    ):
        await emulator.execute("object-del", id="g")
    await emulator.execute("blockdev-del", node_name="t")
    await emulator.execute("object-del", id="g")


async def test_device_throttle_shows_in_query_block_until_it_is_removed(emulator, clock):
    await emulator.execute("device_add", driver="scsi-hd", id="d", drive="disk", share_rw="on")
    await limit_device(emulator, iops=10)
    (info,) = await emulator.execute("query-block")
    assert info["inserted"]["iops"] == 10
    assert info["inserted"]["group"] == "d"
    backend = emulator.layer.find_backend("d")
    await backend.pread(0, 512)
    await backend.pread(0, 512)
    held = asyncio.create_task(backend.pread(0, 512))
    await until_idle()
    assert not held.done()
    await limit_device(emulator)
    await held
    (info,) = await emulator.execute("query-block")
    assert info["inserted"]["iops"] == 0
    assert "group" not in info["inserted"]
    assert emulator.layer.throttle_groups.find("d") is None


async def test_unplugged_device_leaves_its_group(emulator):
    await emulator.execute("device_add", driver="scsi-hd", id="d", drive="disk", share_rw="on")
    await limit_device(emulator, iops=10)
    await emulator.execute("device_del", id="d")
    assert emulator.layer.throttle_groups.find("d") is None


async def test_group_shared_by_device_and_filter_counts_both(emulator, clock):
    await emulator.execute("device_add", driver="scsi-hd", id="d", drive="disk", share_rw="on")
    await limit_device(emulator, group="g", iops=10)
    backend, node = emulator.layer.find_backend("d"), emulator.layer.find_node("t")
    await backend.pread(0, 512)
    await backend.pread(0, 512)
    held = asyncio.create_task(node.pread(0, 512))
    await until_idle()
    assert not held.done()
    clock.move(10**9)
    await held


async def test_a_drain_above_lets_requests_go_that_a_throttle_below_holds(emulator, clock):
    await emulator.create("/over.qcow2")
    await emulator.open("over", "/over.qcow2", backing="t")
    guest = BlockBackend(emulator.layer.graph, perm=Permission.CONSISTENT_READ)
    guest.insert(emulator.layer.find_node("over"))
    reads = [asyncio.create_task(guest.pread(0, 256 * KIB)) for _ in range(8)]
    await until_idle()
    assert not all(read.done() for read in reads)
    async with drained([emulator.layer.find_node("over")]):
        assert all(read.done() for read in reads)
    guest.close()
