"""One disk of a transaction fails: first, last or in the middle; then the retry.

Each disk has clusters 1, 20 and 21 to copy, and the fault is at 20. Jobs are held after their first
piece and let go one by one, so the order in which they end is the scenario's. The guest writes
cluster 40 while they run: that must be dirty afterwards, whatever became of the job.

QEMU's counterpart: iotest 124 (test_transaction_failure), for two modes of three.
"""

from __future__ import annotations

import pytest

from .harness import HELD, Client, Json, action, say
from .scene import Disk, Scene, inject, qcow2, with_faults

MODES = ("individual", "grouped", "deferred")
BEFORE = {1, 20, 21}
DURING = {40}
FAULT = 20
STARTED = ["created", "running", "paused", "running"]
"""A job that starts in a drained section, as every backup does, rests until its end."""
ENDINGS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


def order_of_ending(count: int, position: str) -> list[int]:
    """Return the disks in the order in which their jobs end; disk 1 fails."""
    others = [number for number in range(count) if number != 1]
    place = {"first": 0, "middle": 1, "last": len(others)}[position]
    return [*others[:place], 1, *others[place:]]


class Attempt:
    """One transaction in which the job of ``failing`` is bound to fail."""

    def __init__(self, scene: Scene, disks: list[Disk], failing: Disk, mode: str) -> None:
        self.scene = scene
        self.client: Client = scene.client
        self.disks = disks
        self.failing = failing
        self.mode = mode
        self.ended: list[Disk] = []
        self.targets: list[str] = []

    @property
    def failed(self) -> bool:
        return self.failing in self.ended

    async def launch(self, *, faulty_target: bool) -> None:
        """Start all jobs, held after their first piece; then let the guest write."""
        actions = []
        for disk in self.disks:
            image = qcow2(await disk.next_target())
            rules = [inject(FAULT, "write")] if faulty_target and disk is self.failing else []
            node = await self.scene.add_node(f"{disk.name}-target", with_faults(image, *rules))
            self.targets.append(node)
            actions.append(
                action(
                    "blockdev-backup", device=disk.name, job_id=disk.name, target=node,
                    sync="incremental", bitmap="b0", speed=HELD,
                )
            )  # fmt: skip
        say(f"{self.mode}: {len(actions)} jobs, that of {self.failing.name} is going to fail")
        self.client.mark()
        await self.client.transaction(*actions, mode=self.mode, txn="try")
        await self.client.held(*(disk.name for disk in self.disks))
        for disk in self.disks:
            await disk.write(*DURING, pattern=77)

    async def let_end(self, disk: Disk) -> None:
        """Let the job of a disk go, and wait until that showed."""
        if disk.name not in {job["id"] for job in await self.client.run("query-jobs")}:
            assert self.mode == "grouped"
            assert self.failed
            return
        await self.client.release(disk.name)
        self.ended.append(disk)
        if self.mode == "grouped" and not self.failed:
            await self.client.hear("JOB_STATUS_CHANGE", id=disk.name, status="waiting")
        else:
            ending = await self.client.hear("BLOCK_JOB_COMPLETED", device=disk.name)
            assert ("error" in ending) == (disk is self.failing), ending
        say(f"{disk.name} has {'failed' if disk is self.failing else 'done its work'}")
        await self.check_between()

    async def check_between(self) -> None:
        """Check who is frozen and what the transaction says of itself."""
        if self.mode == "grouped":
            settled = self.disks if self.failed else []
        elif self.mode == "deferred":
            settled = self.disks if self.ended[len(self.disks) - 1 :] else []
        else:
            settled = self.ended
        for disk in self.disks:
            assert await disk.is_frozen() == (disk not in settled), disk.name
        concluded = settled if self.mode == "grouped" else self.ended
        running = [disk for disk in self.disks if disk not in concluded]
        report = await self.client.run("query-transactions")
        if not running:
            assert report == []
            return
        assert report[0]["id"] == "try"
        assert report[0]["status"] == "running"
        assert report[0]["completion-mode"] == self.mode
        assert report[0]["references"] == len(running)
        assert set(report[0]["holders"]) == {f"job {disk.name}" for disk in running}

    def survives(self, disk: Disk) -> bool:
        """Return whether the disk's bitmap abdicates."""
        return self.mode == "individual" and disk is not self.failing

    async def check_result(self) -> None:
        """Check the verdict, the events and every bit."""
        done = await self.client.hear("TRANSACTION_COMPLETED", id="try")
        assert done["status"] == "failed"
        assert done["completion-mode"] == self.mode
        assert [job["id"] for job in done["jobs"]] == [disk.name for disk in self.disks]
        fates = {fate["node"]: fate["outcome"] for fate in done["bitmaps"]}
        assert len(done["bitmaps"]) == len(self.disks)
        for disk in self.disks:
            good = self.survives(disk)
            assert fates[disk.name] == ("abdicated" if good else "reclaimed"), disk.name
            disk.dirty = DURING if good else BEFORE | DURING
            await disk.assert_dirty(disk.dirty)
            self.check_events(disk, done)
        assert self.client.names("TRANSACTION_COMPLETED") == ["TRANSACTION_COMPLETED"]
        await self.scene.assert_settled()
        say("every bit that was not backed up is still dirty")

    def check_events(self, disk: Disk, done: Json) -> None:
        """Check what was told of one job."""
        error = next(job.get("error") for job in done["jobs"] if job["id"] == disk.name)
        endings = [
            name
            for name in ENDINGS
            for data in self.client.data(name)
            if data["device"] == disk.name
        ]
        statuses = self.client.statuses(disk.name)
        assert statuses[:4] == STARTED
        assert statuses[-2:] == ["concluded", "null"]
        if disk is self.failing:
            assert error == "Input/output error"
            assert endings == ["BLOCK_JOB_COMPLETED"]
            assert statuses[4:-2] == ["aborting"]
        elif self.mode == "grouped":
            assert error == "Operation canceled"
            assert endings == ["BLOCK_JOB_CANCELLED"]
            waited = ["waiting"] if self.ended.index(self.failing) and disk in self.ended else []
            assert statuses[4:-2] == [*waited, "aborting"]
        else:
            assert error is None
            assert endings == ["BLOCK_JOB_COMPLETED"]
            assert statuses[4:-2] == ["waiting", "pending"]

    async def check_error_event(self, operation: str) -> None:
        """Check that the failed request was told, once, by the job it failed."""
        errors = self.client.data("BLOCK_JOB_ERROR")
        wanted = {"device": self.failing.name, "operation": operation, "action": "report"}
        assert errors == [wanted]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("count", "position", "side"),
    [
        (2, "first", "target"),
        (2, "last", "source"),
        (3, "first", "source"),
        (3, "middle", "target"),
        (3, "middle", "source"),
        (3, "last", "target"),
    ],
)
async def test_one_disk_fails_and_the_retry_restores_all(
    scene: Scene, mode: str, count: int, position: str, side: str
) -> None:
    disks = []
    for number in range(count):
        faulty = number == 1 and side == "source"
        rules = [inject(FAULT, "read", once=True)] if faulty else []
        disks.append(await scene.disk(f"d{number}", *rules))
    await scene.dirty_disks(*disks)
    attempt = Attempt(scene, disks, disks[1], mode)
    await attempt.launch(faulty_target=side == "target")
    for number in order_of_ending(count, position):
        await attempt.let_end(disks[number])
    await attempt.check_result()
    await attempt.check_error_event("write" if side == "target" else "read")
    for disk, node in zip(disks, attempt.targets, strict=True):
        await scene.drop_node(node)
        if attempt.survives(disk):
            disk.chain.append(scene.directory / f"{disk.name}.{disks.index(disk) + 1}.qcow2")
    await scene.back_up(*disks, mode=mode)
    await scene.restore(*disks)


@pytest.mark.parametrize("mode", MODES)
async def test_disk_that_fails_three_times_loses_no_bit(scene: Scene, mode: str) -> None:
    """The guest goes on writing between the attempts, and what it writes is added up."""
    disks = await scene.busy_disks(2)
    for number in range(3):
        target = await disks[1].next_target()
        fault = with_faults(qcow2(target), inject(FAULT, "write"))
        node = await scene.add_node("broken", fault)
        good = await disks[0].next_target()
        scene.client.mark()
        await scene.client.transaction(
            disks[0].incremental(good, "good"),
            action(
                "blockdev-backup", device=disks[1].name, job_id="bad", target=node,
                sync="incremental", bitmap="b0",
            ),
            mode=mode,
            txn=f"try{number}",
        )  # fmt: skip
        done = await scene.client.hear("TRANSACTION_COMPLETED", id=f"try{number}")
        assert done["status"] == "failed"
        if mode == "individual":
            disks[0].chain.append(good)
            disks[0].dirty = set()
        for disk in disks:
            await disk.assert_dirty(disk.dirty)
            await disk.write(50 + number, pattern=60 + number)
        await scene.drop_node(node)
    await scene.back_up(*disks)
    await scene.restore(*disks)


async def test_fault_named_in_the_target_of_drive_backup(scene: Scene) -> None:
    """``drive-backup`` opens what its target names, blkdebug included, and closes it again."""
    scene.complaints |= {"closing node", "Failed to flush"}
    (disk,) = await scene.busy_disks(1)
    target = await disk.next_target()
    rules = scene.directory / "blkdebug.conf"
    rules.write_text('[inject-error]\nevent = "l2_update"\niotype = "write"\nerrno = "5"\n')
    before = await scene.nodes()
    await scene.client.transaction(
        disk.incremental(target, "bad", target=f"blkdebug:{rules}:{target}"), txn="try"
    )
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="try")
    assert done["status"] == "failed"
    await disk.assert_dirty(BEFORE)
    assert await scene.nodes() == before
    await scene.back_up(disk)
    await scene.restore(disk)


async def test_target_that_cannot_be_flushed_fails_the_job(scene: Scene) -> None:
    """All was copied, but nobody knows whether it lasts: the bitmap must not forget it."""
    scene.complaints |= {"closing node", "Failed to flush"}
    (disk,) = await scene.busy_disks(1)
    target = await disk.next_target()
    rule = {"event": "none", "iotype": "flush", "errno": 5}
    await scene.add_node("sick", with_faults(qcow2(target), rule))
    await scene.client.transaction(
        action(
            "blockdev-backup", device=disk.name, job_id="job", target="sick",
            sync="incremental", bitmap="b0",
        ),
        txn="try",
    )  # fmt: skip
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="try")
    assert done["status"] == "failed"
    errors = scene.client.data("BLOCK_JOB_ERROR")
    assert errors == [{"device": "job", "operation": "write", "action": "report"}]
    await disk.assert_dirty(BEFORE)
    await scene.drop_node("sick")
    await scene.back_up(disk)
    await scene.restore(disk)
