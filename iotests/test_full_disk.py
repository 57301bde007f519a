"""A file system that is really full: jobs wait for room, guests hear of it, images stay sound.

Everything lies on a small tmpfs, which only root may mount; elsewhere these scenarios are left out.
``iotests/test_target_errors.py`` has the same policies with injected errors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import say
from .images import CLUSTER, check
from .scene import Disk, Scene

SIZE_MIB = 8
ROOM = 64 << 10
"""What is left when the disk is nearly full: less than one cluster with its tables."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the scenario keeps its images: a file system of its own."""
    path = Path(tempfile.mkdtemp(prefix="blkxact-"))
    options = f"size={SIZE_MIB}m"
    mount = ["mount", "-t", "tmpfs", "-o", options, "blkxact-test", str(path)]
    try:
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a small file system can be mounted by root only")
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def fill(scene: Scene, leave: int = 0) -> Path:
    """Take all room but ``leave`` bytes; return the file that has it."""
    ballast = scene.directory / "ballast"
    room = os.statvfs(scene.directory)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)
    say(f"{leave} bytes are left")
    return ballast


async def start(scene: Scene, disk: Disk, **more: str) -> Path:
    """Start an incremental backup for which there is no room; return what takes it."""
    target = await disk.next_target()
    disk.chain.append(target)
    ballast = fill(scene, ROOM)
    await scene.client.transaction(disk.incremental(target, "job", **more), txn="try")
    return ballast


@pytest.mark.parametrize("resume", ["job-resume", "block-job-resume"])
@pytest.mark.parametrize("policy", ["enospc", "stop"])
async def test_job_waits_for_room_and_completes_when_resumed(
    scene: Scene, policy: str, resume: str
) -> None:
    (disk,) = await scene.busy_disks(1)
    ballast = await start(scene, disk, on_target_error=policy)
    error = await scene.client.hear("BLOCK_JOB_ERROR", device="job")
    assert error == {"device": "job", "operation": "write", "action": "stop"}
    await scene.client.hear("JOB_STATUS_CHANGE", id="job", status="paused")
    info = await scene.client.block_job("job")
    assert info is not None
    assert (info["io-status"], info["status"]) == ("nospace", "paused")
    assert await disk.is_frozen()

    say("resumed without room, it stops again")
    argument = {"id": "job"} if resume == "job-resume" else {"device": "job"}
    scene.client.mark()
    await scene.client.run(resume, **argument)
    await scene.client.hear("BLOCK_JOB_ERROR", device="job")
    await scene.client.hear("JOB_STATUS_CHANGE", id="job", status="paused")

    ballast.unlink()
    await scene.client.run(resume, **argument)
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="completed")
    assert [fate["outcome"] for fate in done["bitmaps"]] == ["abdicated"]
    await disk.assert_dirty(set())
    await scene.restore(disk)


async def test_job_that_fails_for_want_of_room_forgets_nothing(scene: Scene) -> None:
    scene.complaints.add("No space left on device")
    (disk,) = await scene.busy_disks(1)
    ballast = await start(scene, disk)
    ending = await scene.client.hear("BLOCK_JOB_COMPLETED", device="job")
    assert ending["error"] == "No space left on device"
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="failed")
    assert [fate["outcome"] for fate in done["bitmaps"]] == ["reclaimed"]
    await disk.assert_dirty(disk.dirty)
    await check(disk.chain.pop(), leaks=True)
    ballast.unlink()
    await scene.back_up(disk)
    await scene.restore(disk)


async def test_guest_writes_without_room_leave_a_sound_image(scene: Scene) -> None:
    """The image is checked, and compared with what was written, when the scene closes."""
    (disk,) = await scene.busy_disks(1)
    ballast = fill(scene)
    for number in (5, 40, 63):
        line = f"write -q -P 99 {number * CLUSTER} {CLUSTER}"
        said = await scene.client.guest(disk.device, line)
        assert "No space left on device" in said, said
    await disk.write(1, pattern=50)
    said = await scene.client.guest(disk.device, f"read -q -P 0 {5 * CLUSTER} {CLUSTER}")
    assert not said, said
    ballast.unlink()
    await disk.write(5, pattern=51)
    await scene.client.guest(disk.device, "flush")
    disk.dirty |= {40, 63}  # a write that failed may have written
    await disk.assert_dirty(disk.dirty)


async def test_bitmap_that_finds_no_room_is_inconsistent_not_wrong(scene: Scene) -> None:
    scene.complaints.add("Failed to update bitmap extension")
    (disk,) = await scene.busy_disks(1)
    add = {"node": disk.name, "name": "kept", "persistent": True}
    await scene.client.run("block-dirty-bitmap-add", **add)
    scene.disks.remove(disk)
    await scene.client.run("device_del", id=disk.device)
    await scene.drop_node(disk.name)
    options = {"driver": "qcow2", "file": {"driver": "file", "filename": str(disk.path)}}
    await scene.add_node(disk.name, options)
    bitmap = (await disk.bitmaps())["kept"]
    assert not bitmap.get("inconsistent")
    said = await scene.client.run(
        "human-monitor-command", command_line=f'qemu-io {disk.name} "write -q 0 64k"'
    )
    assert not said
    ballast = fill(scene)
    await scene.drop_node(disk.name)
    ballast.unlink()
    await scene.add_node(disk.name, options)
    assert (await disk.bitmaps())["kept"]["inconsistent"]
    await scene.client.run("block-dirty-bitmap-remove", node=disk.name, name="kept")
    await scene.drop_node(disk.name)
    await check(disk.path, leaks=True)
