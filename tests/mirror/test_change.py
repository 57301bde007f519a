"""block-job-change (QEMU 8.2): a mirror in the background becomes one that blocks writes.

The texts are those of QEMU 10.0.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until, until_idle
from tests.emulator import KIB, SIZE, Emulator

CLUSTER = 64 * KIB
ONE = b"one!" * (CLUSTER // 4)
TWO = b"two!" * (CLUSTER // 4)
BLOCKING = {"id": "m", "type": "mirror", "copy-mode": "write-blocking"}
BACKGROUND = BLOCKING | {"copy-mode": "background"}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("10.0")
    yield emulator
    await emulator.layer.shutdown()


@pytest.fixture
async def guest(emulator: Emulator) -> BlockBackend:
    """Return the guest's side of disk ``a``; ``t`` is to be its mirror."""
    guest = await emulator.disk("a")
    await guest.pwrite(0, ONE)
    await emulator.create("/t.qcow2")
    await emulator.open("t", "/t.qcow2")
    return guest


async def mirror(emulator: Emulator, **options: Any) -> None:
    """Start a mirror; return when it is ready."""
    start = {"job_id": "m", "device": "a", "target": "t", "sync": "full"}
    await emulator.execute("blockdev-mirror", **start | options)
    await until(lambda: emulator.named("BLOCK_JOB_READY"))


async def change(emulator: Emulator, options: dict[str, Any] = BLOCKING) -> None:
    await emulator.execute_wire("block-job-change", options)


async def actively_synced(emulator: Emulator) -> bool:
    (info,) = await emulator.execute("query-block-jobs")
    return bool(info["actively-synced"])


async def content(emulator: Emulator, node: str) -> bytes:
    return bytes(await emulator.layer.find_node(node).pread(0, SIZE))


async def refusal(emulator: Emulator, options: dict[str, Any]) -> str:
    with pytest.raises(QmpError) as caught:
        await change(emulator, options)
    return caught.value.desc


async def test_write_after_the_change_reaches_the_target_at_once(
    emulator: Emulator, guest: BlockBackend
) -> None:
    await mirror(emulator)
    assert not await actively_synced(emulator)
    await change(emulator)
    await until_idle()
    assert await actively_synced(emulator)
    await emulator.execute("job-pause", id="m")  # nothing is copied in the background
    await guest.pwrite(CLUSTER, TWO)
    assert await content(emulator, "t") == await content(emulator, "a")
    assert await actively_synced(emulator)
    await emulator.execute("job-resume", id="m")
    await emulator.execute("job-complete", id="m")
    await emulator.jobs_over()
    assert guest.node is emulator.layer.find_node("t")


async def test_write_that_is_under_way_at_the_change_is_not_missed(
    emulator: Emulator, guest: BlockBackend
) -> None:
    """It was to be copied in the background; those that come later wait until it is over."""
    await mirror(emulator)
    source = emulator.layer.find_node("a").address
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(point: str, facts: Mapping[str, Any]) -> None:
        if facts["node"] == source and facts["offset"] == 2 * CLUSTER:
            arrived.set()
            await go.wait()

    emulator.layer.points.listen("request.write", hold)
    early = asyncio.create_task(guest.pwrite(2 * CLUSTER, TWO))
    await arrived.wait()
    await change(emulator)
    late = asyncio.create_task(guest.pwrite(3 * CLUSTER, TWO))
    await until_idle()
    assert not late.done()
    go.set()
    await asyncio.gather(early, late)
    await until_idle()
    assert await actively_synced(emulator)
    assert await content(emulator, "t") == await content(emulator, "a")


async def test_mirror_whose_target_fails_is_not_actively_synced(
    emulator: Emulator, guest: BlockBackend
) -> None:
    await mirror(emulator, on_target_error="stop")
    await change(emulator)
    await until_idle()
    target = emulator.layer.find_node("t").address
    emulator.storage.faults.add(Fault("request.write", errno.EIO, {"node": target}, times=1))
    await guest.pwrite(CLUSTER, TWO)
    assert not await actively_synced(emulator)
    await emulator.execute("job-resume", id="m")
    await until_idle()
    assert await actively_synced(emulator)
    assert await content(emulator, "t") == await content(emulator, "a")


async def test_change_back_is_refused(emulator: Emulator, guest: BlockBackend) -> None:
    await mirror(emulator, copy_mode="write-blocking")
    await change(emulator)
    text = "Change to copy mode 'background' is not implemented"
    assert await refusal(emulator, BACKGROUND) == text
    assert await refusal(emulator, {"id": "m", "type": "backup"}) == text


async def test_change_to_what_it_is_changes_nothing(
    emulator: Emulator, guest: BlockBackend
) -> None:
    await mirror(emulator)
    await change(emulator, BACKGROUND)
    await change(emulator, {"id": "m", "type": "commit"})
    await until_idle()
    assert not await actively_synced(emulator)


@pytest.mark.parametrize("kind", ["backup", "commit"])
async def test_other_jobs_cannot_be_changed(
    emulator: Emulator, guest: BlockBackend, kind: str
) -> None:
    if kind == "backup":
        start = {"device": "a", "target": "t", "sync": "none", "job_id": "m"}
        await emulator.execute("blockdev-backup", **start)
    else:
        await emulator.execute("device_del", id="guest-a")
        await emulator.create("/over.qcow2")
        await emulator.open("over", "/over.qcow2", backing="a")
        await emulator.execute("block-commit", device="over", job_id="m")
        await until(lambda: emulator.named("BLOCK_JOB_READY"))
    for options in (BLOCKING, {"id": "m", "type": kind}):
        assert await refusal(emulator, options) == "Job type does not support change"


async def test_job_that_has_ended_cannot_be_changed(
    emulator: Emulator, guest: BlockBackend
) -> None:
    await mirror(emulator, auto_finalize=False, auto_dismiss=False)
    await change(emulator)
    await until_idle()
    await emulator.execute("job-complete", id="m")
    for status in ("pending", "concluded"):
        await until(lambda: emulator.layer.jobs["m"].status == status)  # noqa: B023 - called here
        text = f"Job 'm' in state '{status}' cannot accept command verb 'change'"
        assert await refusal(emulator, BLOCKING) == text
        assert await actively_synced(emulator)
        if status == "pending":
            await emulator.execute("job-finalize", id="m")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (BLOCKING, "Block job 'm' not found"),
        ({"id": "m", "type": "backup"}, "Block job 'm' not found"),
        ({"id": "m", "type": "mirror"}, "Parameter 'copy-mode' is missing"),
        ({"id": "m"}, "Parameter 'type' is missing"),
        ({"type": "mirror"}, "Parameter 'id' is missing"),
        (BLOCKING | {"type": "foo"}, "Parameter 'type' does not accept value 'foo'"),
        (BLOCKING | {"copy-mode": "foo"}, "Parameter 'copy-mode' does not accept value 'foo'"),
        (BLOCKING | {"type": "backup"}, "Parameter 'copy-mode' is unexpected"),
        (BLOCKING | {"id": 1}, "Invalid parameter type for 'id', expected: string"),
    ],
)
async def test_bad_request_is_refused_as_by_qemu(
    emulator: Emulator, options: dict[str, Any], error: str
) -> None:
    assert await refusal(emulator, options) == error


async def test_older_release_has_neither_command_nor_member(
    emulator: Emulator, guest: BlockBackend
) -> None:
    emulator.emulate("7.2")
    commands = await emulator.execute("query-commands")
    assert "block-job-change" not in [command["name"] for command in commands]
    await mirror(emulator)
    (info,) = await emulator.execute("query-block-jobs")
    assert info["type"] == "mirror"
    assert "actively-synced" not in info
