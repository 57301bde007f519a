"""Who may open an image that the daemon has, and when it lets go: asked of the real qemu-img.

A reader that does not share writing is refused while the daemon may write, and a daemon is refused
what another process writes. On every way out the locks go: that of the node, of the process, and of
whatever failed.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import PATIENCE_S, Daemon, Json, action, say
from .images import make_image, qemu_img
from .scene import Scene, qcow2

pytestmark = pytest.mark.qemu

REFUSED = (
    "qemu-img: Could not open '{0}': Failed to get shared \"write\" lock\n"
    "Is another process using the image [{0}]?\n"
)


async def assert_locked(path: Path) -> None:
    """Assert that QEMU's tools are kept out, unless they say that they do not mind."""
    assert await qemu_img("info", str(path), statuses=(1,)) == REFUSED.format(path)
    assert "file format: qcow2" in await qemu_img("info", "-U", str(path))


async def assert_free(path: Path) -> None:
    """Assert that nobody holds a lock, neither to read nor to write."""
    say(f"{path.name} is free")
    await qemu_img("check", str(path), statuses=(0, 3))
    await qemu_img("resize", "-f", "qcow2", str(path), "+64k")


def words(path: Path) -> list[str]:
    return ["--blockdev", f"qcow2,node-name=d,file.driver=file,file.filename={path}"]


@pytest.mark.parametrize("way", ["quit", "SIGTERM", "SIGKILL"])
async def test_daemon_that_ends_lets_go(directory: Path, way: str) -> None:
    path = await make_image(directory / "disk.qcow2")
    with Daemon(directory, *words(path)) as daemon:
        async with daemon.client() as client:
            await assert_locked(path)
            if way == "quit":
                await client.run("quit")
                await daemon.ended()
            else:
                await daemon.end(signal.Signals[way])
    await assert_free(path)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for one in threads for child in (one / "children").read_text().split()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the event loop has the processor")
async def test_process_that_copies_for_a_killed_daemon_ends_and_lets_go(directory: Path) -> None:
    source, target = directory / "source.raw", directory / "target.raw"
    with source.open("wb") as file:
        for offset in range(0, 64 << 20, 128 << 10):
            file.seek(offset)
            file.write(bytes([7]) * (64 << 10))
        file.truncate(64 << 20)
    target.touch()
    os.truncate(target, 64 << 20)
    named = [
        ["--blockdev", f"raw,node-name={path.stem},file.driver=file,file.filename={path}"]
        for path in (source, target)
    ]
    with Daemon(directory, *named[0], *named[1]) as daemon:
        async with daemon.client() as client:
            await client.run(
                "blockdev-backup", job_id="job", device="source", target="target", sync="full"
            )

            async def begun() -> bool:
                await asyncio.sleep(0)
                return bool(children_of(daemon.process.pid))

            await client.until("a process copies", begun)
            ends = [os.pidfd_open(pid) for pid in children_of(daemon.process.pid)]
            await daemon.end(signal.SIGKILL)
    for descriptor in ends:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], "it does not end"
        os.close(descriptor)
    # Copies that were done are whole; the process was killed between two of them, or in one.
    say("nobody has the target")
    await qemu_img("resize", "-f", "raw", str(target), "+64k")


async def test_daemon_in_the_background_holds_its_images_until_it_ends(directory: Path) -> None:
    path = await make_image(directory / "disk.qcow2")
    pidfile, socket = directory / "pid", directory / "qmp.sock"
    command = [sys.executable, "-m", "blkxact", "serve", "--daemonize", "--pidfile", str(pidfile)]
    command += ["--qmp", str(socket), *words(path)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=PATIENCE_S)
    pid = int(pidfile.read_text())
    try:
        await assert_locked(path)
    finally:
        descriptor = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        assert select.select([descriptor], [], [], PATIENCE_S)[0], "it does not end"
        os.close(descriptor)
    await assert_free(path)


async def test_node_that_is_deleted_lets_go(scene: Scene) -> None:
    path = await make_image(scene.directory / "disk.qcow2")
    await scene.add_node("d", qcow2(path))
    await assert_locked(path)
    await scene.drop_node("d")
    await assert_free(path)


async def test_node_that_reads_shares_with_readers_but_not_with_writers(scene: Scene) -> None:
    path = await make_image(scene.directory / "disk.qcow2")
    await scene.add_node("d", qcow2(path) | {"read-only": True})
    assert "file format: qcow2" in await qemu_img("info", str(path))
    said = await qemu_img("resize", "-f", "qcow2", str(path), "+64k", statuses=(1,))
    assert 'Failed to get "write" lock' in said
    await scene.drop_node("d")
    await assert_free(path)


@pytest.mark.parametrize("what", ["node-name", "backing", "option"])
async def test_opening_that_fails_lets_go(scene: Scene, what: str) -> None:
    path = await make_image(scene.directory / "disk.qcow2")
    other: Json = {"driver": "file", "filename": str(scene.directory / "missing")}
    options: dict[str, Json] = {
        "node-name": {"node-name": "not a name"},
        "backing": {"node-name": "d", "backing": {"driver": "qcow2", "file": other}},
        "option": {"node-name": "d", "file": {"driver": "blkdebug", "image": other}},
    }
    await scene.client.refused("blockdev-add", **(qcow2(path) | options[what]))
    await assert_free(path)


async def test_transaction_that_fails_lets_go_of_its_targets(scene: Scene) -> None:
    (disk,) = await scene.busy_disks(1)
    target = await disk.next_target()
    refusal = await scene.client.refused_transaction(
        disk.incremental(target, "job"),
        action("block-dirty-bitmap-clear", node=disk.name, name="none"),
    )
    assert refusal == "Dirty bitmap 'none' not found"
    await assert_free(target)
    await assert_locked(disk.path)


async def test_target_of_a_job_is_held_until_the_job_is_over(scene: Scene) -> None:
    (disk,) = await scene.busy_disks(1)
    target = await disk.next_target()
    await scene.client.transaction(disk.incremental(target, "job", speed=1), txn="t")
    await scene.client.held("job")
    await assert_locked(target)
    await scene.client.run("block-job-cancel", device="job", force=True)
    await scene.client.hear("TRANSACTION_COMPLETED", id="t", status="cancelled")
    await assert_free(target)


def qemu_with(path: Path) -> subprocess.Popen[bytes]:
    """Start QEMU's storage daemon, and return when it has the image."""
    command = ["qemu-storage-daemon", *words(path), "--chardev", "stdio,id=m", "--monitor", "m"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # the greeting
    return process


async def test_image_that_qemu_writes_is_refused_in_qemus_words(scene: Scene) -> None:
    path = await make_image(scene.directory / "disk.qcow2")
    with qemu_with(path) as qemu:
        said = await scene.client.refused("blockdev-add", **{"node-name": "d"}, **qcow2(path))
        assert said == 'Failed to get "write" lock'
        reader = qcow2(path) | {"read-only": True}
        said = await scene.client.refused("blockdev-add", **{"node-name": "d"}, **reader)
        assert said == 'Failed to get shared "write" lock'
        qemu.kill()
    await scene.add_node("d", qcow2(path))
