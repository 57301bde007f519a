"""Jobs of a transaction are cancelled, paused, slowed down, finalized and dismissed by a client.

QEMU's counterpart: iotests 055 and 124, ``tests/unit/test-blockjob-txn.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .harness import HELD, Json, action, say
from .images import assert_content, make_image
from .scene import Disk, Scene

MODES = ("individual", "grouped", "deferred")
BEFORE = {1, 20, 21}
DURING = {40}
PATTERN = 77


class Running:
    """A transaction of incremental backups, each held after its first piece, or run to its end."""

    def __init__(self, scene: Scene, disks: Sequence[Disk], mode: str) -> None:
        self.scene = scene
        self.client = scene.client
        self.disks = disks
        self.mode = mode
        self.targets: dict[str, Path] = {}
        self.at_start: dict[str, list[int]] = {}

    async def launch(self, **more: Any) -> None:
        """Start the jobs; once they work the guest writes."""
        members = {"speed": HELD} | more
        actions = []
        for disk in self.disks:
            target = await disk.next_target()
            self.targets[disk.name] = target
            self.at_start[disk.name] = list(disk.content)
            actions.append(disk.incremental(target, disk.name, **members))
        self.client.mark()
        await self.client.transaction(*actions, mode=self.mode, txn="try")
        if members["speed"] == HELD:
            await self.client.held(*(disk.name for disk in self.disks))
        for disk in self.disks:
            await disk.write(*DURING, pattern=PATTERN)

    async def release(self, *disks: Disk) -> None:
        """Let jobs go on."""
        for disk in disks:
            await self.client.release(disk.name)

    async def finish(self, status: str, good: Sequence[Disk] = ()) -> Json:
        """Check the verdict and every bit: the bitmaps of ``good`` have abdicated."""
        done = await self.client.hear("TRANSACTION_COMPLETED", id="try")
        assert done["status"] == status, done
        assert len(done["bitmaps"]) == len(self.disks)
        for fate in done["bitmaps"]:
            kept = fate["node"] not in {disk.name for disk in good}
            assert fate["outcome"] == ("reclaimed" if kept else "abdicated"), fate
        for disk in self.disks:
            if disk in good:
                disk.dirty = set(DURING)
                disk.chain.append(self.targets[disk.name])
                await assert_content(disk.chain[-1], self.at_start[disk.name])
            await disk.assert_dirty(disk.dirty)
        await self.scene.assert_settled()
        say(f"{status}: every bit is accounted for")
        return done

    async def retry(self) -> None:
        """Back up what is left, and restore."""
        await self.scene.back_up(*self.disks, mode=self.mode)
        await self.scene.restore(*self.disks)


@pytest.mark.parametrize(
    ("mode", "command", "arguments"),
    [
        ("individual", "block-job-cancel", {"device": "d0"}),
        ("grouped", "block-job-cancel", {"device": "d0"}),
        ("grouped", "job-cancel", {"id": "d0"}),
        ("deferred", "block-job-cancel", {"device": "d0", "force": True}),
        ("deferred", "job-cancel", {"id": "d0"}),
    ],
)
async def test_cancelled_job_keeps_its_bits(
    scene: Scene, mode: str, command: str, arguments: Json
) -> None:
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, mode)
    await backup.launch()
    say(f"{mode}: {command} {arguments}")
    await scene.client.run(command, **arguments)
    await scene.client.hear("BLOCK_JOB_CANCELLED", device="d0")
    if mode == "grouped":
        await scene.client.hear("BLOCK_JOB_CANCELLED", device="d1")
    else:
        await backup.release(disks[1])
        await scene.client.hear("BLOCK_JOB_COMPLETED", device="d1")
    done = await backup.finish("cancelled", disks[1:] if mode == "individual" else [])
    results = {job["id"]: job.get("error") for job in done["jobs"]}
    cancelled = "Operation canceled"
    assert results == {"d0": cancelled, "d1": cancelled if mode == "grouped" else None}
    started = ["created", "running", "paused", "running"]  # it rests until the transaction is over
    assert scene.client.statuses("d0") == [*started, "aborting", "concluded", "null"]
    assert scene.client.data("BLOCK_JOB_ERROR") == []
    await backup.retry()


@pytest.mark.parametrize("mode", MODES)
async def test_paused_job_rests_while_the_guest_writes(scene: Scene, mode: str) -> None:
    """What the guest overwrites meanwhile still is in the backup as it was."""
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, mode)
    await backup.launch()
    await scene.client.run("job-pause", id="d0")
    await scene.client.hear("JOB_STATUS_CHANGE", id="d0", status="paused")
    info = await scene.client.block_job("d0")
    assert info is not None
    assert info["paused"]
    assert await scene.client.refused("job-pause", id="d0") == "Job is already paused"
    assert (
        await scene.client.refused("block-job-cancel", device="d0")
        == "The block job for device 'd0' is currently paused"
    )
    say(f"{mode}: d0 is paused; the guest overwrites what is not copied yet")
    await scene.client.run("block-job-set-speed", device="d0", speed=0)
    for disk in disks:
        await disk.write(20, 40, pattern=PATTERN)
    assert (await scene.client.block_job("d0") or {})["status"] == "paused"
    await scene.client.run("job-resume", id="d0")
    await backup.release(disks[1])
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="completed")
    for disk in disks:
        disk.dirty = {20, 40}
        await disk.assert_dirty({20, 40})
        await assert_content(backup.targets[disk.name], backup.at_start[disk.name])
        disk.chain.append(backup.targets[disk.name])
    started = ["created", "running", "paused", "running"]  # it rests until the transaction is over
    assert scene.client.statuses("d0")[:6] == [*started, "paused", "running"]
    await backup.retry()


@pytest.mark.parametrize("mode", MODES)
async def test_paused_job_is_cancelled_by_force(scene: Scene, mode: str) -> None:
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, mode)
    await backup.launch()
    for disk in disks:
        await scene.client.run("block-job-pause", device=disk.name)
        await scene.client.hear("JOB_STATUS_CHANGE", id=disk.name, status="paused")
    await scene.client.run("block-job-cancel", device="d1", force=True)
    await scene.client.hear("BLOCK_JOB_CANCELLED", device="d1")
    if mode != "grouped":
        await scene.client.run("job-cancel", id="d0")
    await scene.client.hear("BLOCK_JOB_CANCELLED", device="d0")
    done = await backup.finish("cancelled")
    assert done["status"] == "cancelled"
    await backup.retry()


@pytest.mark.parametrize("mode", MODES)
async def test_all_jobs_cancelled_at_once(scene: Scene, mode: str) -> None:
    disks = await scene.busy_disks(3)
    backup = Running(scene, disks, mode)
    await backup.launch()
    await scene.client.run("job-cancel", id="d0")
    for disk in disks[1:]:
        if mode != "grouped":  # a group is cancelled as a whole, and may be gone by now
            await scene.client.run("job-cancel", id=disk.name)
    await backup.finish("cancelled")
    cancelled = scene.client.data("BLOCK_JOB_CANCELLED")
    assert {one["device"] for one in cancelled} == {disk.name for disk in disks}
    assert len(cancelled) == len(disks)
    await backup.retry()


async def pending(backup: Running) -> None:
    """Wait until every job waits for job-finalize."""
    for disk in backup.disks:
        await backup.client.hear("BLOCK_JOB_PENDING", id=disk.name)
    for disk in backup.disks:
        assert await disk.is_frozen()
    say(f"{backup.mode}: all jobs are pending")


@pytest.mark.parametrize("mode", MODES)
async def test_pending_jobs_are_finalized(scene: Scene, mode: str) -> None:
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, mode)
    await backup.launch(speed=0, auto_finalize=False, auto_dismiss=False)
    await pending(backup)
    await scene.client.run("job-finalize", id="d0")
    if mode != "grouped":
        assert (await scene.client.block_job("d1") or {})["status"] == "pending"
        assert await disks[1].is_frozen()
        await scene.client.run("block-job-finalize", id="d1")
    for disk in disks:
        await scene.client.hear("JOB_STATUS_CHANGE", id=disk.name, status="concluded")
    refusal = "Job 'd0' in state 'concluded' cannot accept command verb 'finalize'"
    assert await scene.client.refused("job-finalize", id="d0") == refusal
    await scene.client.run("job-dismiss", id="d0")
    await scene.client.run("block-job-dismiss", id="d1")
    await backup.finish("completed", disks)
    await backup.retry()


@pytest.mark.parametrize("mode", MODES)
async def test_pending_job_is_cancelled(scene: Scene, mode: str) -> None:
    """All has been copied, and the client changes its mind: no bit may be forgotten."""
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, mode)
    await backup.launch(speed=0, auto_finalize=False)
    await pending(backup)
    await scene.client.run("job-cancel", id="d1")
    await scene.client.hear("BLOCK_JOB_CANCELLED", device="d1")
    if mode == "grouped":
        await scene.client.hear("BLOCK_JOB_CANCELLED", device="d0")
    else:
        await scene.client.run("job-finalize", id="d0")
    await backup.finish("cancelled", disks[:1] if mode == "individual" else [])
    await backup.retry()


async def test_group_finalizes_when_its_last_job_is_told_to(scene: Scene) -> None:
    """One of two has auto-finalize off: the group waits for it, and bitmaps settle together."""
    disks = await scene.busy_disks(2)
    targets = [await disk.next_target() for disk in disks]
    await scene.client.transaction(
        disks[0].incremental(targets[0], "d0"),
        disks[1].incremental(targets[1], "d1", auto_finalize=False),
        mode="grouped",
        txn="try",
    )
    await scene.client.hear("BLOCK_JOB_PENDING", id="d1")
    assert all([await disk.is_frozen() for disk in disks])
    assert (await scene.client.block_job("d0") or {})["status"] == "pending"
    await scene.client.run("job-finalize", id="d1")
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="completed")
    for disk, target in zip(disks, targets, strict=True):
        await disk.assert_dirty(set())
        await assert_content(target, disk.content)


async def test_failed_job_that_is_not_dismissed_tells_its_error(scene: Scene) -> None:
    disks = await scene.busy_disks(2)
    backup = Running(scene, disks, "grouped")
    await backup.launch(auto_dismiss=False)
    await scene.client.run("job-cancel", id="d1")
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="cancelled")
    jobs = {job["id"]: job for job in await scene.client.run("query-jobs")}
    for disk in disks:
        job = jobs[disk.name]
        assert (job["status"], job["error"]) == ("concluded", "Operation canceled")
        assert not await disk.is_frozen()
        await scene.client.run("job-dismiss", id=disk.name)
    await backup.finish("cancelled")


async def test_sync_none_backs_up_what_the_guest_overwrites(scene: Scene) -> None:
    """Such a job never ends by itself; cancelling it is how it ends."""
    (disk,) = await scene.busy_disks(1)
    target = scene.directory / "fleece.qcow2"
    job = action(
        "drive-backup", device=disk.name, job_id="fleece", sync="none", target=str(target),
        format="qcow2",
    )  # fmt: skip
    before = list(disk.content)
    await scene.client.transaction(job, txn="try")
    await disk.write(1, 50, pattern=PATTERN)
    await scene.client.run("block-job-cancel", device="fleece")
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="cancelled")
    overwritten = [before[n] if n in (1, 50) else now for n, now in enumerate(disk.content)]
    await scene.client.run("device_del", id=disk.device)
    scene.disks.remove(disk)
    await scene.drop_node(disk.name)
    await assert_content(target, overwritten)


async def test_speed_is_checked_and_shown(scene: Scene) -> None:
    (disk,) = await scene.busy_disks(1)
    backup = Running(scene, [disk], "individual")
    await backup.launch()
    refusal = "Parameter 'speed' expects a non-negative value"
    assert await scene.client.refused("block-job-set-speed", device="d0", speed=-1) == refusal
    await scene.client.run("block-job-set-speed", device="d0", speed=2)
    assert (await scene.client.block_job("d0") or {})["speed"] == 2
    await backup.release(disk)
    await backup.finish("completed", [disk])


async def test_commands_name_what_is_in_the_way(scene: Scene) -> None:
    """While a backup runs, its disk, bitmap and id are taken, and the refusals say by what."""
    (disk,) = await scene.busy_disks(1)
    backup = Running(scene, [disk], "deferred")
    await backup.launch()
    refused = scene.client.refused
    busy = "Bitmap 'b0' is currently in use by another operation and cannot be used"
    for verb in ("remove", "clear", "enable", "disable"):
        assert await refused(f"block-dirty-bitmap-{verb}", node="d0", name="b0") == busy
    other = await make_image(scene.directory / "other.qcow2")
    again = disk.incremental(other, "again")
    assert await refused("drive-backup", **again["data"]) == busy
    assert await refused("blockdev-del", node_name="d0") == "Block device d0 is in use"
    assert (
        await scene.client.refused_transaction(action("abort"), txn="try")
        == "Transaction ID 'try' already in use"
    )
    await backup.release(disk)
    await backup.finish("completed", [disk])
