"""The daemon ends in the middle of a backup: killed, by a signal, or by ``quit``.

After a kill the images are sound but for leaked clusters, nothing that had been flushed is gone,
and a persistent bitmap says itself that it cannot be trusted. After a signal all is in order: jobs
are cancelled, bitmaps are settled and stored, the socket is gone.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .harness import HELD, Client, Daemon, say
from .images import CLUSTER, assert_content, check, content_bytes, make_image, read_image
from .scene import Disk, Scene

MODES = ("individual", "grouped", "deferred")


@asynccontextmanager
async def running(directory: Path, *words: str) -> AsyncIterator[tuple[Scene, Daemon]]:
    """Start a daemon for this scenario alone."""
    with Daemon(directory, *words) as daemon:
        async with daemon.client() as client:
            yield Scene(directory, daemon, client), daemon


def blockdev(path: Path, name: str) -> list[str]:
    """Return the words that add an image from the command line."""
    return ["--blockdev", f"qcow2,node-name={name},file.driver=file,file.filename={path}"]


async def start_backups(scene: Scene, disks: list[Disk], mode: str) -> None:
    """Start incremental backups, held in the middle, while the guest overwrites things."""
    actions = [disk.incremental(await disk.next_target(), disk.name, speed=HELD) for disk in disks]
    await scene.client.transaction(*actions, mode=mode, txn=mode)
    await scene.client.held(*(disk.name for disk in disks))
    for disk in disks:
        await disk.write(21, 40, pattern=99)
        assert await scene.client.guest(disk.device, "flush") == ""
    say(f"{mode}: {len(disks)} jobs are in the middle, the guest has flushed")


async def add_persistent(client: Client, disk: Disk) -> None:
    """Make a second bitmap, which the image keeps."""
    await client.run("block-dirty-bitmap-add", node=disk.name, name="kept", persistent=True)


async def three_kinds(scene: Scene, count: int) -> list[Disk]:
    """Start a transaction in each mode, over ``count`` disks of its own; all are in the middle.

    The first disk of each has a persistent bitmap as well.
    """
    disks = [await scene.disk(f"d{number}") for number in range(count * len(MODES))]
    for disk in disks[::count]:
        await add_persistent(scene.client, disk)
    await scene.dirty_disks(*disks)
    for number, mode in enumerate(MODES):
        await start_backups(scene, disks[count * number : count * (number + 1)], mode)
    return disks


async def test_killed_daemon_leaves_sound_images(directory: Path) -> None:
    async with running(directory) as (scene, daemon):
        disks = await three_kinds(scene, 1)
        busy = await write_until_killed(scene)
        assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
    for path in images_in(directory):
        await check(path, leaks=True)
    for disk in disks:
        assert await read_image(disk.path) == content_bytes(disk.content), disk.name
        say(f"{disk.name} has all that the guest had flushed")
    await check_flushed(busy)
    assert daemon.socket.exists(), "which the next daemon takes over"
    async with running(directory) as (scene, daemon):
        again = [await reopened(scene, disk) for disk in disks]
        for disk in again:
            assert await disk.bitmaps() == {}
        await scene.full_backup(*again)
        for disk in again:
            await disk.write(3, pattern=33)
        await scene.back_up(*again)
        await scene.restore(*again)
        assert await quit_daemon(scene.client, daemon) == 0
    assert not daemon.socket.exists()


def images_in(directory: Path) -> list[Path]:
    """Return all images of a scenario."""
    return sorted(directory.glob("*.qcow2"))


async def reopened(scene: Scene, before: Disk) -> Disk:
    """Plug a disk in again that an earlier daemon had."""
    disk = await scene.disk(before.name)
    disk.content = before.content
    return disk


async def quit_daemon(client: Client, daemon: Daemon) -> int:
    """End the daemon in order."""
    await client.run("quit")
    return await daemon.ended()


async def write_until_killed(scene: Scene) -> Disk:
    """Flush every other cluster; start writes of those between, which nobody waits for."""
    disk = await scene.disk("busy")
    await disk.write(*range(0, 60, 2), pattern=1)
    assert await scene.client.guest(disk.device, "flush") == ""
    for cluster in range(1, 60, 2):
        line = f"aio_write -q -P 2 {cluster * CLUSTER} {CLUSTER}"
        assert await scene.client.guest(disk.device, line) == ""
    return disk


async def check_flushed(disk: Disk) -> None:
    """Check that flushed clusters are there, and in the others nothing but what was written."""
    data = await read_image(disk.path)
    for cluster in range(60):
        found = set(data[cluster * CLUSTER : (cluster + 1) * CLUSTER])
        wanted = {0, 2} if cluster % 2 else {1}
        assert found <= wanted, (cluster, found)


async def test_signal_settles_everything_and_a_kill_does_not(directory: Path) -> None:
    """Three lives of the same disks: ended by SIGTERM, by SIGKILL, and by SIGINT."""
    async with running(directory) as (scene, daemon):
        disks = await three_kinds(scene, 2)
        await freeze_persistent(scene, disks[0])
        assert await daemon.end(signal.SIGTERM) == 0
        assert daemon.text() == f"blkxact: listening for QMP on unix:{daemon.socket}\n"
        await check_farewell(scene.client, disks)
    assert not daemon.socket.exists()
    for path in images_in(directory):
        await check(path)
    for disk in disks:
        await assert_content(disk.path, disk.content)
    async with running(directory) as (scene, daemon):
        disk = await reopened(scene, disks[0])
        assert set(await disk.bitmaps()) == {"kept"}
        await disk.assert_dirty({0, 1, 20, 21, 30, 40, 50}, "kept")
        say("frozen bits and those written since were merged, and the image kept them")
        await disk.write(7, pattern=7)
        assert await scene.client.guest(disk.device, "flush") == ""
        await daemon.end(signal.SIGKILL)
    async with running(directory) as (scene, daemon):
        disk = await reopened(scene, disk)
        await recover_persistent(scene, disk)
        assert await daemon.end(signal.SIGINT) == 0
    await assert_content(disk.path, disk.content)


async def recover_persistent(scene: Scene, disk: Disk) -> None:
    """The bitmap was in use: what the image has of it is old, and it does not pretend otherwise."""
    kept = (await disk.bitmaps())["kept"]
    assert kept["inconsistent"]
    assert not kept["recording"]
    refused = await scene.client.refused_transaction(
        disk.incremental(await make_image(scene.directory / "t.qcow2"), "job", bitmap="kept")
    )
    assert refused == "Bitmap 'kept' is inconsistent and cannot be used"
    await scene.client.run("block-dirty-bitmap-remove", node="d0", name="kept")
    await add_persistent(scene.client, disk)
    say("a full backup and a new bitmap, and all is well again")
    await scene.full_backup(disk)
    await disk.write(8, pattern=8)
    await disk.assert_dirty({8}, "kept")
    await scene.back_up(disk)
    await scene.restore(disk)


async def freeze_persistent(scene: Scene, disk: Disk) -> None:
    """Start another job, which takes the persistent bitmap, and pause it."""
    target = await make_image(scene.directory / "kept.qcow2")
    await scene.client.transaction(
        disk.incremental(target, "paused", bitmap="kept", speed=HELD), mode="deferred", txn="kept"
    )
    await scene.client.held("paused")
    await scene.client.run("job-pause", id="paused")
    await scene.client.hear("JOB_STATUS_CHANGE", id="paused", status="paused")
    await disk.write(50, pattern=2)


async def check_farewell(client: Client, disks: list[Disk]) -> None:
    """Check what the clients of a daemon that ends are told."""
    shutdown = await client.hear("SHUTDOWN")
    assert shutdown == {"guest": False, "reason": "host-signal"}
    for txn in (*MODES, "kept"):
        done = await client.hear("TRANSACTION_COMPLETED", id=txn)
        assert done["status"] == "cancelled"
        assert {fate["outcome"] for fate in done["bitmaps"]} == {"reclaimed"}
    cancelled = [one["device"] for one in client.data("BLOCK_JOB_CANCELLED")]
    assert sorted(cancelled) == sorted([*(disk.name for disk in disks), "paused"])
    for name in cancelled:
        assert client.statuses(name)[-1] == "null"


async def test_second_daemon_cannot_open_what_the_first_one_has(scene: Scene) -> None:
    """The images are locked; the lock goes with the process, as the scenarios above show."""
    disk = await scene.disk("d0")
    with Daemon(scene.directory, *blockdev(disk.path, "d0")) as second:
        assert await second.ended() == 1
        assert 'Failed to get "write" lock' in second.text()
