"""The guest writes while backups start and run; several clients watch, come and go.

The guest writes in turns to all disks, one request after the other, so what it did is one sequence.
The backups of one transaction must hold a prefix of that sequence: the same prefix on every disk.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from contextlib import asynccontextmanager

import pytest

from .harness import HELD, Client, action, say
from .images import CLUSTERS, assert_content, content_bytes, read_image
from .scene import Disk, Scene

MODES = ("individual", "grouped", "deferred")
AT_LEAST = 40
"""Writes of the guest before, while and after the jobs run."""


class Guest:
    """Writes on a monitor of its own; ``history`` has (disk, cluster, pattern) of each."""

    def __init__(self, client: Client, disks: list[Disk], seed: int) -> None:
        self.client = client
        self.disks = disks
        self.history: list[tuple[int, int, int]] = []
        self.done = 0
        """How many of these were answered."""
        self._random = random.Random(seed)
        self._stopping = False
        self._progress = asyncio.Event()

    async def run(self) -> None:
        while not self._stopping:
            turn = len(self.history)
            number = turn % len(self.disks)
            cluster = self._random.randrange(CLUSTERS)
            pattern = 1 + turn % 255
            self.history.append((number, cluster, pattern))
            await self.disks[number].write(cluster, pattern=pattern, client=self.client)
            self.done += 1
            self._progress.set()

    async def more(self, count: int = AT_LEAST) -> None:
        """Wait for so many writes more."""
        goal = self.done + count
        async with asyncio.timeout(20):
            while self.done < goal:
                self._progress.clear()
                await self._progress.wait()

    def stop(self) -> None:
        self._stopping = True

    def states(self, start: list[list[int]], first: int, last: int) -> list[list[bytes]]:
        """Return the disks after ``first`` writes, after one more, and so on up to ``last``."""
        content = [list(disk) for disk in start]
        found = []
        for turn in range(last + 1):
            if turn >= first:
                found.append([content_bytes(disk) for disk in content])
            if turn < len(self.history):
                number, cluster, pattern = self.history[turn]
                content[number][cluster] = pattern
        return found


@asynccontextmanager
async def writing(scene: Scene, disks: list[Disk], seed: int):
    """Let the guest write on a second monitor as long as the block runs."""
    async with scene.daemon.client("guest") as client:
        guest = Guest(client, disks, seed)
        task = asyncio.create_task(guest.run())
        try:
            yield guest
        finally:
            guest.stop()
            await task


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sync", ["full", "incremental"])
async def test_backups_of_one_transaction_hold_the_same_moment(
    scene: Scene, request: pytest.FixtureRequest, mode: str, sync: str
) -> None:
    seed = zlib.crc32(request.node.name.encode())
    say(f"seed {seed}")
    disks = await scene.busy_disks(2)
    start = [list(disk.content) for disk in disks]
    more = {"bitmap": "b0"} if sync == "incremental" else {}
    targets = [await disk.next_target() for disk in disks]
    async with writing(scene, disks, seed) as guest:
        await guest.more()
        first = guest.done
        await scene.client.transaction(
            *(
                action(
                    "drive-backup", device=disk.name, job_id=disk.name, sync=sync, speed=HELD,
                    target=str(target), format="qcow2", mode="existing", **more,
                )
                for disk, target in zip(disks, targets, strict=True)
            ),
            mode=mode,
            txn="moment",
        )  # fmt: skip
        last = len(guest.history)
        await guest.more()
        for disk in disks:
            await scene.client.release(disk.name)
        await scene.client.hear("TRANSACTION_COMPLETED", id="moment", status="completed")
        await guest.more()
    found = [await read_image(target) for target in targets]
    moments = guest.states(start, first, last)
    assert found in moments, f"no moment between {first} and {last} looks like this on both disks"
    moment = first + moments.index(found)
    say(f"{mode} {sync}: both backups hold the first {moment} of {guest.done} writes")
    if sync == "full":
        return
    for number, (disk, target) in enumerate(zip(disks, targets, strict=True)):
        later = {cluster for one, cluster, _ in guest.history[moment:] if one == number}
        await disk.assert_dirty(later)
        disk.chain.append(target)
    await scene.back_up(*disks)
    await scene.restore(*disks)


async def test_every_client_hears_every_event(scene: Scene) -> None:
    """Also one that connects in the middle, from then on; and one that only negotiated."""
    disks = await scene.busy_disks(2)
    targets = [await disk.next_target() for disk in disks]
    async with scene.daemon.client("second") as second:
        scene.client.mark()
        await scene.client.transaction(
            *(
                disk.incremental(target, disk.name, speed=HELD)
                for disk, target in zip(disks, targets, strict=True)
            ),
            txn="watched",
        )
        async with scene.daemon.client("late") as late:
            assert len(await late.run("query-jobs")) == 2
            assert late.heard == []
            await second.release("d0")
            await late.hear("BLOCK_JOB_COMPLETED", device="d0")
            await late.release("d1")
            for client in (scene.client, second, late):
                await client.hear("TRANSACTION_COMPLETED", id="watched", status="completed")
            ours = scene.client.names()
            assert second.names() == ours
            assert late.names() == ours[-len(late.names()) :]
            assert len(late.names()) < len(ours)
    for disk in disks:
        await disk.assert_dirty(set())


async def test_clients_that_leave_take_nothing_with_them(scene: Scene) -> None:
    """One starts a transaction and hangs up without reading the reply."""
    disks = await scene.busy_disks(2)
    targets = [await disk.next_target() for disk in disks]
    actions = [
        disk.incremental(target, disk.name, speed=HELD)
        for disk, target in zip(disks, targets, strict=True)
    ]
    properties = {"id": "orphan", "completion-mode": "grouped"}
    async with scene.daemon.rude_client() as send:
        await send("transaction", {"actions": actions, "properties": properties})
    say("the client that started the transaction has gone")
    await scene.client.held(*(disk.name for disk in disks))
    for disk in disks:
        await disk.write(50, pattern=5)
    async with scene.daemon.client("polite") as polite:
        await polite.release("d0")
        await scene.client.hear("JOB_STATUS_CHANGE", id="d0", status="waiting")
    await scene.client.release("d1")
    await scene.client.hear("TRANSACTION_COMPLETED", id="orphan", status="completed")
    for disk, target in zip(disks, targets, strict=True):
        disk.dirty = {50}
        await disk.assert_dirty({50})
        disk.chain.append(target)
    await scene.back_up(*disks)
    await scene.restore(*disks)


async def test_guest_request_survives_the_client_that_made_it(scene: Scene) -> None:
    """A write stands at a breakpoint, its client leaves, and another lets it go on."""
    disk = await scene.disk("d0")
    await scene.client.run("device_del", id=disk.device)
    await scene.drop_node("d0")
    image = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(disk.path)}}
    await scene.add_node("d0", {"driver": "qcow2", "file": image})
    await scene.client.run("device_add", driver="virtio-blk", id=disk.device, drive="d0")
    await scene.client.run("block-dirty-bitmap-add", node="d0", name="b0")
    assert await scene.client.guest(disk.device, "break write_aio held") == ""
    async with scene.daemon.rude_client() as send:
        line = f'qemu-io -d {disk.device} "write -q -P 7 0 64k"'
        await send("human-monitor-command", {"command-line": line})
        assert await scene.client.guest(disk.device, "wait_break held") == ""
    assert await scene.client.guest(disk.device, "resume held") == ""
    disk.content[0] = 7
    disk.dirty = {0}

    async def written() -> bool:
        return (await disk.bitmaps())["b0"]["count"] > 0

    await scene.client.until("the write has ended", written)
    await disk.assert_dirty({0})


async def test_backup_of_a_disk_nobody_writes_to_equals_it(scene: Scene) -> None:
    """Sync full and sync top of an overlay: the one has all, the other only its own layer."""
    disk = await scene.disk("d0")
    await disk.write(1, 2, pattern=3)
    snapshot = scene.directory / "overlay.qcow2"
    await scene.client.transaction(
        action(
            "blockdev-snapshot-sync", node_name="d0", snapshot_file=str(snapshot),
            snapshot_node_name="top", format="qcow2",
        )
    )  # fmt: skip
    await disk.write(2, 60, pattern=4)
    for sync in ("full", "top"):
        target = scene.directory / f"{sync}.qcow2"
        await scene.client.run(
            "drive-backup", device="top", job_id=sync, sync=sync, target=str(target),
            format="qcow2",
        )  # fmt: skip
        await scene.client.hear("BLOCK_JOB_COMPLETED", device=sync)
        await assert_content(target, disk.content)
    disk.content[2], disk.content[60] = 3, 0  # what the lower image goes on to hold
