"""Jobs that become ready: every verb in every state, as in QEMU."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blkxact.enums import JobStatus
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob, BlockJobOptions
from tests.emulator import Emulator
from tests.nbd.process import QEMU, Daemon

MIB = 1 << 20
TIMEOUT_S = 10


class MirrorToy(BlockJob):
    """Has nothing to copy, so it is ready at once, unless its ``speed`` is 1 until it is paused."""

    type_name = "mirror"

    def __init__(self, host: Any, job_id: str, txn: Any, node: Any, **options: Any) -> None:
        super().__init__(host, job_id, txn, BlockJobOptions(**options), graph=host.graph)
        self.should_complete = False
        self.hold("main node", node)

    def takes_soft_cancel(self) -> bool:
        return self.is_ready

    def complete(self) -> None:
        if not self.is_ready:
            raise self.cannot_complete()
        self.should_complete = True
        self.kick()

    async def run(self) -> None:
        while self.speed == 1 and not self.cancelled and not self.must_rest():
            await self.sleep(None)
        await self.pause_point()
        if not self.cancelled:
            self.become_ready()
        while not (self.cancel_requested or self.should_complete):
            await self.sleep(None)
            await self.pause_point()


@pytest.fixture
async def emulator():
    emulator = Emulator()
    await emulator.execute("blockdev-add", driver="null-co", node_name="disk", size=4 * MIB)
    yield emulator
    await emulator.layer.shutdown()


def toy(emulator: Emulator, job_id: str = "m", **options: Any) -> MirrorToy:
    layer = emulator.layer
    txn = layer.begin_transaction(None, None)
    node = layer.find_node("disk")
    job = MirrorToy(layer, job_id, txn, node, **options)
    job.start()
    return job


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def ends(emulator: Emulator) -> list[str]:
    return [one["event"] for one in emulator.events if one["event"].startswith("BLOCK_JOB_C")]


async def test_ready_job_cancelled_softly_completes(emulator: Emulator) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    await emulator.execute("block-job-cancel", device="m")
    await job.wait()
    assert (job.ret, ends(emulator)) == (0, ["BLOCK_JOB_COMPLETED"])


async def test_ready_job_cancelled_by_force_is_cancelled(emulator: Emulator) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    await emulator.execute("block-job-cancel", device="m", force=True)
    await job.wait()
    assert (job.ret, ends(emulator)) == (-errno.ECANCELED, ["BLOCK_JOB_CANCELLED"])


async def test_job_cancelled_softly_before_it_is_ready_is_cancelled(emulator: Emulator) -> None:
    job = toy(emulator, speed=1)
    await emulator.execute("block-job-cancel", device="m")
    await job.wait()
    assert (job.ret, ends(emulator)) == (-errno.ECANCELED, ["BLOCK_JOB_CANCELLED"])


async def test_ready_job_cancelled_by_force_after_a_soft_cancel_is_cancelled(
    emulator: Emulator,
) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    job.request_cancel(force=False)
    job.request_cancel()
    job.request_cancel(force=False)
    await job.wait()
    assert job.ret == -errno.ECANCELED


async def test_ready_job_cannot_be_completed_once_it_is_cancelled(emulator: Emulator) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    job.request_cancel(force=False)
    with pytest.raises(QmpError, match="The active block job 'm' cannot be completed"):
        job.user_complete()
    await job.wait()


async def test_job_that_has_worked_ignores_a_soft_cancel(emulator: Emulator) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    async with emulator.layer.lock:  # it cannot end
        job.user_complete()
        await until(lambda: job.worked)
        await job.cancel(force=False)
        assert not job.cancel_requested
    await job.wait()
    assert (job.ret, ends(emulator)) == (0, ["BLOCK_JOB_COMPLETED"])


async def test_job_completed_in_standby_goes_on_when_it_is_resumed(emulator: Emulator) -> None:
    job = toy(emulator)
    await until(lambda: job.is_ready)
    job.user_pause()
    await until(lambda: job.status is JobStatus.STANDBY)
    await emulator.execute("job-complete", id="m")
    assert job.status is JobStatus.STANDBY
    await emulator.execute("job-resume", id="m")
    await job.wait()
    assert ends(emulator) == ["BLOCK_JOB_COMPLETED"]


# Beside QEMU.

STATES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "running": ({"speed": 1}, ()),
    "paused": ({"speed": 1}, ("job-pause",)),
    "ready": ({}, ()),
    "standby": ({}, ("job-pause",)),
    "pending": ({"auto-finalize": False}, ("job-complete",)),
    "concluded": ({"auto-dismiss": False}, ("job-complete",)),
}
"""Members of blockdev-mirror, and the verbs that bring the job there."""
WORKING = {"running": "running", "paused": "running"}
"""The state in which these verbs are used, where it is not ready."""
VERBS: list[tuple[str, dict[str, Any]]] = [
    *(
        (f"job-{verb}", {})
        for verb in ("pause", "resume", "cancel", "complete", "finalize", "dismiss")
    ),
    *(
        (f"block-job-{verb}", {})
        for verb in ("pause", "resume", "cancel", "complete", "finalize", "dismiss")
    ),
    ("block-job-cancel", {"force": True}),
    ("block-job-set-speed", {"speed": 5}),
    ("block-job-set-speed", {"speed": -1}),
]
ID_MEMBER = frozenset({"block-job-finalize", "block-job-dismiss"})


def with_job(verb: str, members: dict[str, Any]) -> dict[str, Any]:
    name = "id" if verb.startswith("job-") or verb in ID_MEMBER else "device"
    return {name: "m", **members}


def compared(events: list[dict[str, Any]]) -> list[Any]:
    """Return what is compared of events: no times, nothing of what was copied."""
    dropped = ("len", "offset", "speed")
    return [
        (one["event"], {k: v for k, v in one["data"].items() if k not in dropped})
        for one in events
        if "JOB" in one["event"]
    ]


class Theirs:
    """A mirror of QEMU's."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def execute(self, command: str, members: dict[str, Any]) -> Any:
        reply = self.daemon.execute(command, **{k.replace("-", "_"): v for k, v in members.items()})
        return reply["desc"] if isinstance(reply, dict) and "desc" in reply else reply

    def bring(self, state: str) -> None:
        options, verbs = STATES[state]
        self.daemon.events.clear()
        self.execute(
            "blockdev-mirror",
            {"job-id": "m", "device": "disk", "target": "target", "sync": "full", **options},
        )
        self.wait(WORKING.get(state, "ready"))
        for verb in verbs:
            self.execute(verb, {"id": "m"})
        self.wait(state)

    def wait(self, state: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while [job["status"] for job in self.execute("query-jobs", {})] != [state]:
            assert time.monotonic() < deadline, state

    def wait_events(self, count: int) -> list[Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while len(compared(self.daemon.events)) < count and time.monotonic() < deadline:
            self.execute("query-jobs", {})
        return compared(self.daemon.events)

    def end(self) -> None:
        """Let the job end, whatever its state."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.execute("query-jobs", {}):
            assert time.monotonic() < deadline
            self.execute("job-cancel", {"id": "m"})
            self.execute("job-dismiss", {"id": "m"})


async def start_toy(emulator: Emulator, options: dict[str, Any]) -> None:
    toy(emulator, **{name.replace("-", "_"): value for name, value in options.items()})


async def start_mirror(emulator: Emulator, options: dict[str, Any]) -> None:
    members = {"job-id": "m", "device": "disk", "target": "target", "sync": "full", **options}
    await emulator.execute_wire("blockdev-mirror", members)


async def ours_after(
    start: Any, state: str, verb: str, members: dict[str, Any]
) -> tuple[Any, list[Any]]:
    """Return the reply to a verb in a state, and all events of the job until then and after."""
    emulator = Emulator()
    for name in ("disk", "target"):
        await emulator.execute("blockdev-add", driver="null-co", node_name=name, size=4 * MIB)
    options, verbs = STATES[state]
    await start(emulator, options)
    job = emulator.layer.jobs["m"]
    await until(lambda: str(job.status) == WORKING.get(state, "ready"))
    await until_settled(job)
    for each in verbs:
        await emulator.execute(each, id="m")
    await until(lambda: str(job.status) == state)
    try:
        reply = await emulator.execute_wire(verb, with_job(verb, members)) or {}
    except QmpError as error:
        reply = error.desc
    await until_settled(job)
    events = compared(emulator.events)
    await emulator.layer.shutdown()
    return reply, events


async def until_settled(job: Any) -> None:
    """Let the loop turn until the status stays as it is."""
    unchanged = 0
    before = job.status
    while unchanged < 20:
        await asyncio.sleep(0)
        unchanged = unchanged + 1 if job.status is before else 0
        before = job.status


@pytest.mark.qemu
@pytest.mark.parametrize("start", [start_toy, start_mirror])
@pytest.mark.parametrize("state", STATES)
async def test_verbs_in_every_state_are_qemus(start: Any, state: str, image_dir: Path) -> None:
    disks = ("disk", "target")
    blockdevs = [f"--blockdev=null-co,node-name={name},size={4 * MIB}" for name in disks]
    ours = [await ours_after(start, state, verb, members) for verb, members in VERBS]
    with Daemon(image_dir, *blockdevs, program=QEMU) as daemon:
        theirs = Theirs(daemon)
        for (verb, members), (reply, events) in zip(VERBS, ours, strict=True):
            theirs.bring(state)
            assert reply == theirs.execute(verb, with_job(verb, members)), verb
            assert events == theirs.wait_events(len(events)), verb
            theirs.end()
