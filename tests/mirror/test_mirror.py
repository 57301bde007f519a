"""Mirrors on images in memory."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import Any

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.runtime.release import RELEASES
from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until, until_idle
from tests.emulator import KIB, SIZE, Emulator

ONE = b"one!" * KIB
TWO = b"two!" * KIB
MODES = ["background", "write-blocking"]


@pytest.fixture
async def emulator():
    emulator = Emulator()
    yield emulator
    await emulator.layer.shutdown()


async def add_target(emulator: Emulator, fmt: str = "qcow2", size: int = SIZE) -> None:
    await emulator.create(f"/t.{fmt}", fmt, size)
    await emulator.open("t", f"/t.{fmt}", fmt)


async def mirror(emulator: Emulator, **options: Any) -> None:
    await emulator.execute(
        "blockdev-mirror",
        **{"job_id": "m", "device": "a", "target": "t", "sync": "full", **options},
    )


async def drive_mirror(emulator: Emulator, **options: Any) -> None:
    await emulator.execute(
        "drive-mirror",
        **{"job_id": "m", "device": "a", "target": "/n.qcow2", "sync": "full", **options},
    )


async def until_ready(emulator: Emulator) -> None:
    await until(lambda: emulator.named("BLOCK_JOB_READY"))


async def complete(emulator: Emulator) -> None:
    await emulator.execute("job-complete", id="m")
    await emulator.jobs_over()


async def content(emulator: Emulator, node: str) -> bytes:
    return bytes(await emulator.layer.find_node(node).pread(0, SIZE))


def ended(emulator: Emulator) -> tuple[str, str | None]:
    """Return the event with which the job ended and its error."""
    (event,) = (one for one in emulator.events if one["event"].startswith("BLOCK_JOB_C"))
    return event["event"], event["data"].get("error")


def fail(
    emulator: Emulator, operation: str, path: str, code: int = errno.EIO, times: int = 1
) -> None:
    fault = Fault(f"storage.{operation}", code, {"path": path}, times=times)
    emulator.storage.faults.add(fault)


# How it ends.


@pytest.mark.parametrize("mode", MODES)
async def test_mirror_pivots_to_an_equal_target(emulator: Emulator, mode: str) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, ONE)
    await mirror(emulator, copy_mode=mode)
    await until_ready(emulator)
    await guest.pwrite(64 * KIB - 512, TWO)
    await guest.pwrite_zeroes(0, KIB)
    whole = bytes(await guest.pread(0, SIZE))
    await complete(emulator)
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", None)
    assert guest.node is emulator.layer.find_node("t")
    assert bytes(await guest.pread(0, SIZE)) == whole
    await emulator.execute("blockdev-del", node_name="a")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_mirror_that_is_cancelled_leaves_the_disk(
    emulator: Emulator, mode: str, force: bool
) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, ONE)
    await mirror(emulator, copy_mode=mode)
    await until_ready(emulator)
    await guest.pwrite(KIB, TWO)
    await emulator.execute("block-job-cancel", device="m", force=force)
    await emulator.jobs_over()
    assert ended(emulator)[0] == ("BLOCK_JOB_CANCELLED" if force else "BLOCK_JOB_COMPLETED")
    assert guest.node is emulator.layer.find_node("a")
    if not force:
        assert await content(emulator, "t") == await content(emulator, "a")
    await guest.pwrite(0, TWO)
    for name in ("t", "a"):
        assert not emulator.layer.find_node(name).blockers
    await emulator.execute("blockdev-del", node_name="t")


async def test_mirror_keeps_writes_away_until_it_is_finalized(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator, auto_finalize=False)
    await until_ready(emulator)
    await emulator.execute("job-complete", id="m")
    await until(lambda: emulator.named("BLOCK_JOB_PENDING"))
    write = asyncio.create_task(guest.pwrite(0, ONE))
    await until_idle()
    assert not write.done()
    await emulator.execute("job-finalize", id="m")
    await write
    assert (await content(emulator, "t"))[: len(ONE)] == ONE
    assert (await content(emulator, "a"))[: len(ONE)] == bytes(len(ONE))


async def test_mirror_pending_that_is_cancelled_lets_writes_go_to_the_disk(
    emulator: Emulator,
) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator, auto_finalize=False)
    await until_ready(emulator)
    await emulator.execute("job-complete", id="m")
    await until(lambda: emulator.named("BLOCK_JOB_PENDING"))
    await emulator.execute("job-cancel", id="m")
    assert ended(emulator)[0] == "BLOCK_JOB_CANCELLED"
    await guest.pwrite(0, ONE)
    assert (await content(emulator, "a"))[: len(ONE)] == ONE


async def test_mirror_at_a_standstill_completes_when_it_is_resumed(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator)
    await until_ready(emulator)
    await emulator.execute("job-pause", id="m")
    await until(lambda: str(emulator.layer.jobs["m"].status) == "standby")
    await guest.pwrite(0, ONE)
    await emulator.execute("job-complete", id="m")
    await until_idle()
    assert guest.node is not emulator.layer.find_node("t")
    await emulator.execute("job-resume", id="m")
    await emulator.jobs_over()
    assert guest.node is emulator.layer.find_node("t")
    assert bytes(await guest.pread(0, len(ONE))) == ONE


async def test_mirror_under_way_ends_with_the_emulator() -> None:
    emulator = Emulator()
    await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator, copy_mode="write-blocking")
    await until_ready(emulator)
    await emulator.layer.shutdown()
    assert ended(emulator)[0] == "BLOCK_JOB_CANCELLED"


# What is copied.


async def chain(emulator: Emulator) -> Any:
    """Make a disk ``a`` over ``b`` and return the guest's device of it."""
    below = await emulator.disk("b")
    await below.pwrite(0, ONE)
    await emulator.execute("device_del", id="guest-b")
    await emulator.execute("blockdev-del", node_name="b")
    await emulator.execute(
        "blockdev-add",
        driver="qcow2",
        node_name="b",
        read_only=True,
        file={"driver": "file", "filename": "/b.qcow2"},
    )
    await emulator.create("/a.qcow2")
    await emulator.open("a", "/a.qcow2", backing="b")
    guest = emulator.plug("a")
    await guest.pwrite(128 * KIB, TWO)
    return guest


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sync", ["top", "full", "none"])
async def test_drive_mirror_makes_a_target_for_its_sync_mode(
    emulator: Emulator, sync: str, mode: str
) -> None:
    guest = await chain(emulator)
    await drive_mirror(emulator, sync=sync, copy_mode=mode, node_name="n", granularity=512)
    await until_ready(emulator)
    await guest.pwrite(3 * KIB, b"new!" * 128)
    whole = bytes(await guest.pread(0, SIZE))
    if sync == "none":
        await emulator.execute("block-job-cancel", device="m")
        await emulator.jobs_over()
    else:
        await complete(emulator)
        assert guest.node is emulator.layer.find_node("n")
        assert bytes(await guest.pread(0, SIZE)) == whole
        below = emulator.layer.find_node("n").backing
        assert below is (emulator.layer.find_node("b") if sync == "top" else None)
    (end,) = emulator.named("BLOCK_JOB_COMPLETED")
    assert end["len"] == end["offset"]


async def test_mirror_of_what_exists_overwrites_all_of_it(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await guest.pwrite(0, ONE)
    littered = await emulator.disk("t")
    await littered.pwrite(0, TWO * 64)
    await emulator.execute("device_del", id="guest-t")
    await mirror(emulator)
    await until_ready(emulator)
    await complete(emulator)
    assert await content(emulator, "t") == ONE.ljust(SIZE, b"\0")


async def test_drive_mirror_into_an_image_opens_the_backing_file_that_it_names(
    emulator: Emulator,
) -> None:
    guest = await chain(emulator)
    await emulator.create("/n.qcow2")
    node = emulator.layer.find_node("a")
    await emulator.layer.blockdev.open_image("/n.qcow2", {"node-name": "x"}, "qcow2")
    await emulator.layer.find_node("x").driver.set_backing_file("/b.qcow2", "qcow2")
    await emulator.layer.close_unused_nodes()
    await drive_mirror(emulator, sync="top", mode="existing", node_name="n")
    await until_ready(emulator)
    assert emulator.layer.find_node("n").backing is None
    await guest.pwrite(0, TWO)
    await complete(emulator)
    new = emulator.layer.find_node("n")
    assert guest.node is new
    assert new.backing is not None
    assert new.backing is not node.backing
    assert (await content(emulator, "n"))[: len(TWO)] == TWO


# Errors.


@pytest.mark.parametrize(
    ("path", "operation", "side"), [("/a.qcow2", "pread", "read"), ("/t.qcow2", "pwrite", "write")]
)
async def test_mirror_reports_an_error(
    emulator: Emulator, path: str, operation: str, side: str
) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, ONE)
    fail(emulator, operation, path, errno.EIO)
    await mirror(emulator)
    await emulator.jobs_over()
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", "Input/output error")
    (error,) = emulator.named("BLOCK_JOB_ERROR")
    assert error == {"device": "m", "operation": side, "action": "report"}
    assert guest.node is emulator.layer.find_node("a")


@pytest.mark.parametrize("mode", MODES)
async def test_mirror_stops_at_an_error_and_goes_on(emulator: Emulator, mode: str) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator, on_target_error="stop", copy_mode=mode)
    await until_ready(emulator)
    fail(emulator, "pwrite", "/t.qcow2", errno.ENOSPC)
    await guest.pwrite(0, ONE)  # the guest gets no error
    await until(lambda: str(emulator.layer.jobs["m"].status) == "standby")
    (info,) = await emulator.execute("query-block-jobs")
    assert (info["io-status"], info["paused"], info["ready"]) == ("nospace", True, True)
    await emulator.execute("block-job-resume", device="m")
    await complete(emulator)
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", None)
    assert bytes(await guest.pread(0, len(ONE))) == ONE


async def test_mirror_tries_again_what_it_ignores(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, ONE)
    fail(emulator, "pwrite", "/t.qcow2", errno.EIO, times=3)
    await mirror(emulator, on_target_error="ignore")
    await until_ready(emulator)
    assert [one["action"] for one in emulator.named("BLOCK_JOB_ERROR")] == ["ignore"] * 3
    await complete(emulator)
    assert (await content(emulator, "t"))[: len(ONE)] == ONE


async def test_mirror_whose_last_flush_fails_does_not_pivot(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator)
    await until_ready(emulator)
    await guest.pwrite(0, ONE)
    fail(emulator, "flush", "/t.qcow2", errno.EIO)
    await complete(emulator)
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", "Input/output error")
    assert guest.node is emulator.layer.find_node("a")
    await guest.pwrite(0, TWO)


async def test_mirror_to_a_target_of_another_size_fails(emulator: Emulator) -> None:
    await emulator.disk("a")
    await add_target(emulator, size=2 * SIZE)
    await mirror(emulator)
    await emulator.jobs_over()
    assert ended(emulator)[1] == "Source and target image have different sizes"


async def test_mirror_whose_target_cannot_take_the_place_fails(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator)
    await until_ready(emulator)
    # Somebody reads the target, and allows no writes, once the job has let go of it.
    job = emulator.layer.jobs["m"]
    graph = emulator.layer.graph

    async def read(point: str, facts: Any) -> None:
        job.abort()
        reader = BlockBackend(
            graph, "reader", shared=Permission.CONSISTENT_READ, perm=Permission.CONSISTENT_READ
        )
        reader.insert(emulator.layer.find_node("t"))

    emulator.layer.points.listen("job.prepare", read)
    await complete(emulator)
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", "Operation not permitted")
    assert guest.node is emulator.layer.find_node("a")
    await guest.pwrite(0, ONE)
    graph.backends["reader"].close()


@pytest.mark.parametrize("verb", ["job-complete", "block-job-cancel"])
async def test_mirror_whose_target_names_a_backing_file_that_is_not_there_leaves_the_disk(
    emulator: Emulator, verb: str
) -> None:
    guest = await emulator.disk("a")
    await emulator.create("/n.qcow2")
    await emulator.layer.blockdev.open_image("/n.qcow2", {"node-name": "x"}, "qcow2")
    await emulator.layer.find_node("x").driver.set_backing_file("/absent.qcow2", "qcow2")
    await emulator.layer.close_unused_nodes()
    await drive_mirror(emulator, sync="top", mode="existing", node_name="n")
    await until_ready(emulator)
    await emulator.execute(verb, **{"id" if verb == "job-complete" else "device": "m"})
    await emulator.jobs_over()
    assert ended(emulator) == ("BLOCK_JOB_COMPLETED", "Invalid argument")
    assert guest.node is emulator.layer.find_node("a")
    await guest.pwrite(0, ONE)
    assert "n" not in emulator.layer.graph.nodes


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": 511}, "Parameter 'granularity' expects a value in range"),
        ({"granularity": 513}, "Parameter 'granularity' expects a power of 2"),
        ({"buf_size": -1}, "Invalid parameter 'buf-size'"),
        ({"sync": "incremental"}, "Sync mode 'incremental' not supported"),
        ({"target": "a"}, "Can't mirror node into itself"),
        ({"replaces": "t"}, "Cannot replace 't' by a node mirrored from 'a'"),
        ({"filter_node_name": "a"}, "Duplicate nodes with node-name='a'"),
        ({"job_id": "-"}, "Invalid job ID '-'"),
        ({"speed": -1}, "Parameter 'speed' expects a non-negative value"),
        ({"target": "a-file"}, "Permission conflict on node 'a-file'"),
    ],
)
async def test_mirror_that_cannot_be_is_refused_and_changes_nothing(
    emulator: Emulator, options: dict[str, Any], message: str
) -> None:
    await emulator.create("/a.qcow2")
    file = {"driver": "file", "filename": "/a.qcow2", "node-name": "a-file"}
    await emulator.execute("blockdev-add", driver="qcow2", node_name="a", file=file)
    guest = emulator.plug("a")
    await add_target(emulator)
    before = await emulator.execute("query-named-block-nodes")
    with pytest.raises(QmpError, match=message):
        await mirror(emulator, **options)
    assert await emulator.execute("query-named-block-nodes") == before
    assert not emulator.layer.jobs
    assert guest.node is emulator.layer.find_node("a")
    for name in ("a", "t", "a-file"):
        assert emulator.layer.find_node(name).blockers.keys() == set()


async def test_mirrored_disk_cannot_be_resized(emulator: Emulator) -> None:
    await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator)
    for name in ("a", "t"):
        with pytest.raises(QmpError, match=f"Device '{name}' is in use"):
            await emulator.execute("block_resize", node_name=name, size=2 * SIZE)


async def test_mirror_replaces_the_node_that_it_is_told_below_a_filter(emulator: Emulator) -> None:
    await emulator.create("/a.qcow2")
    await emulator.open("a", "/a.qcow2")
    await add_target(emulator)
    group = {"qom_type": "throttle-group", "id": "g"}
    await emulator.execute("object-add", **group)
    await emulator.execute(
        "blockdev-add", driver="throttle", node_name="th", file="a", throttle_group="g"
    )
    guest = emulator.plug("th")
    await guest.pwrite(0, ONE)
    await mirror(emulator, device="th", replaces="a")
    await until_ready(emulator)
    await complete(emulator)
    assert guest.node is emulator.layer.find_node("th")
    assert emulator.layer.find_node("th").filtered is emulator.layer.find_node("t")
    assert bytes(await guest.pread(0, len(ONE))) == ONE


# At every point.

STEPS = 200
"""More than a mirror of these tests takes."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("verb", ["pause", "cancel", "soft-cancel", "complete"])
async def test_mirror_takes_a_verb_at_every_step(verb: str, mode: str) -> None:
    for number in range(STEPS):
        emulator = Emulator()
        guest = await emulator.disk("a")
        await add_target(emulator)
        await guest.pwrite(0, ONE * 8)
        passed = await use_at_step(emulator, verb, number, copy_mode=mode, granularity=4 * KIB)
        if emulator.layer.jobs:
            await guest.pwrite(KIB, TWO)
        if emulator.layer.jobs:
            await complete(emulator)
        event, error = ended(emulator)
        assert error is None
        assert event == "BLOCK_JOB_COMPLETED" or verb != "pause"
        kept = await content(emulator, "a")
        if event == "BLOCK_JOB_COMPLETED":
            assert await content(emulator, "t") == kept
        await guest.pwrite(0, TWO)
        await emulator.layer.shutdown()
        if not passed:
            return
    raise AssertionError("the mirror never ends")


async def use_at_step(emulator: Emulator, verb: str, number: int, **options: Any) -> bool:
    """Mirror, and use the verb at that step, now or later; return whether it was used by now."""
    steps = 0
    used = asyncio.Event()

    async def at_step(point: str, facts: Any) -> None:
        nonlocal steps
        steps += 1
        if steps != number + 1:
            return
        used.set()
        job = emulator.layer.jobs["m"]
        if verb == "pause":
            job.user_pause()
            asyncio.get_running_loop().call_later(0.001, job.user_resume)
        elif verb == "complete" and job.is_ready:
            job.user_complete()
        elif verb != "complete":
            job.request_cancel(force=verb == "cancel")

    emulator.layer.points.listen("job.step", at_step)
    await mirror(emulator, **options)
    await until(lambda: not emulator.layer.jobs or emulator.named("BLOCK_JOB_READY"))
    await until_idle()
    return used.is_set()


async def test_mirror_of_a_throttled_disk_is_cancelled_and_the_emulator_ends() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, ONE * 100)
    await emulator.execute("device_del", id="guest-a")
    await add_target(emulator)
    limits = {"bps-read": 4096}
    await emulator.execute("object-add", qom_type="throttle-group", id="g", limits=limits)
    await emulator.execute(
        "blockdev-add", driver="throttle", node_name="th", file="a", throttle_group="g"
    )
    emulator.plug("th")
    await mirror(emulator, device="th")
    await until_idle()
    await emulator.execute("block-job-cancel", device="m")
    assert not ended_yet(emulator)  # a request is held back
    async with asyncio.timeout(20):
        await emulator.layer.shutdown()
    assert ended(emulator)[0] == "BLOCK_JOB_CANCELLED"


def ended_yet(emulator: Emulator) -> bool:
    return bool(emulator.named("BLOCK_JOB_CANCELLED") or emulator.named("BLOCK_JOB_COMPLETED"))


# The end of the emulator: what QEMU sends (storage daemon, and machines before 8.1 and since).


@pytest.mark.parametrize(
    ("command_set", "release", "drains"),
    [
        (CommandSet.STORAGE_DAEMON, "7.2", 1),
        (CommandSet.SYSTEM, "7.2", 1),
        (CommandSet.STORAGE_DAEMON, "10.0", 1),
        (CommandSet.SYSTEM, "10.0", 2),
    ],
)
async def test_end_of_the_emulator_rests_and_cancels_a_ready_mirror(
    command_set: CommandSet, release: str, drains: int
) -> None:
    emulator = Emulator()
    layer = BlockLayer(
        emulator.storage, SystemClock(), sink := EventSink(SystemClock()),
        rng=random.Random(2), command_set=command_set, release=RELEASES[release],
    )  # fmt: skip
    emulator.use(layer)
    sink.subscribe(emulator.events.append)
    await emulator.create("/a.qcow2")
    await emulator.open("a", "/a.qcow2")
    await add_target(emulator)
    await mirror(emulator)
    await until_ready(emulator)
    emulator.events.clear()
    await layer.shutdown()
    rests = ["standby", "ready"] * drains
    assert [one["status"] for one in emulator.named("JOB_STATUS_CHANGE")] == [
        *rests, "aborting", "concluded", "null",
    ]  # fmt: skip


async def test_end_of_the_emulator_changes_no_paused_job() -> None:
    emulator = Emulator()
    await emulator.disk("a")
    await add_target(emulator)
    await mirror(emulator)
    await until_ready(emulator)
    await emulator.execute("job-pause", id="m")
    await until_idle()
    emulator.events.clear()
    await emulator.layer.shutdown()
    assert [one["status"] for one in emulator.named("JOB_STATUS_CHANGE")] == [
        *("ready", "aborting", "concluded", "null"),
    ]
