"""What a job does when a request of it fails: on-target-error and on-source-error, io-status.

QEMU's counterpart: iotests 041 and 055 (TestReadErrors and so on).
"""

from __future__ import annotations

import pytest

from .harness import action, say
from .scene import EIO, ENOSPC, Disk, Scene, inject, qcow2, with_faults

FAULT = 20


async def sick_backup(
    scene: Scene, policy: str, errno: int, *, side: str = "target", once: bool = True
) -> Disk:
    """Start a backup one of whose requests fails; ``policy`` is what it does about it."""
    iotype = "write" if side == "target" else "read"
    rule = inject(FAULT, iotype, errno=errno, once=once)
    disk = await scene.disk("d0", *([rule] if side == "source" else []))
    await scene.dirty_disks(disk)
    path = await disk.next_target()
    disk.chain.append(path)
    image = with_faults(qcow2(path), *([rule] if side == "target" else []))
    await scene.add_node("target", image)
    say(f"errno {errno} at the {side}, policy {policy}")
    await scene.client.transaction(
        action(
            "blockdev-backup", device="d0", job_id="job", target="target", sync="incremental",
            bitmap="b0", **{f"on_{side}_error": policy},
        ),
        txn="try",
    )  # fmt: skip
    return disk


async def restored(scene: Scene, disk: Disk) -> None:
    """Check that the backup came to a good end."""
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="completed")
    await disk.assert_dirty(set())
    await scene.drop_node("target")
    await scene.restore(disk)


@pytest.mark.parametrize("side", ["target", "source"])
@pytest.mark.parametrize(
    ("policy", "errno", "status"),
    [
        ("stop", EIO, "failed"),
        ("stop", ENOSPC, "nospace"),
        ("enospc", ENOSPC, "nospace"),
        ("auto", ENOSPC, "nospace"),
    ],
)
async def test_job_stops_at_an_error_and_completes_when_resumed(
    scene: Scene, side: str, policy: str, errno: int, status: str
) -> None:
    disk = await sick_backup(scene, policy, errno, side=side)
    error = await scene.client.hear("BLOCK_JOB_ERROR", device="job")
    operation = "write" if side == "target" else "read"
    assert error == {"device": "job", "operation": operation, "action": "stop"}
    await scene.client.hear("JOB_STATUS_CHANGE", id="job", status="paused")
    info = await scene.client.block_job("job")
    assert info is not None
    assert (info["paused"], info["io-status"], info["status"]) == (True, status, "paused")
    assert await disk.is_frozen()
    await scene.client.run("block-job-resume", device="job")
    await restored(scene, disk)
    assert scene.client.names("BLOCK_JOB_ERROR") == ["BLOCK_JOB_ERROR"]


@pytest.mark.parametrize("side", ["target", "source"])
async def test_ignored_error_is_tried_again(scene: Scene, side: str) -> None:
    disk = await sick_backup(scene, "ignore", EIO, side=side)
    error = await scene.client.hear("BLOCK_JOB_ERROR", device="job")
    assert error["action"] == "ignore"
    await restored(scene, disk)


@pytest.mark.parametrize(("policy", "errno"), [("report", ENOSPC), ("enospc", EIO), ("auto", EIO)])
async def test_reported_error_fails_the_job(scene: Scene, policy: str, errno: int) -> None:
    disk = await sick_backup(scene, policy, errno)
    error = await scene.client.hear("BLOCK_JOB_ERROR", device="job")
    assert error == {"device": "job", "operation": "write", "action": "report"}
    ending = await scene.client.hear("BLOCK_JOB_COMPLETED", device="job")
    text = {EIO: "Input/output error", ENOSPC: "No space left on device"}[errno]
    assert ending["error"] == text
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="failed")
    await disk.assert_dirty({1, 20, 21})
    disk.chain.pop()
    await scene.drop_node("target")
    await scene.back_up(disk)
    await scene.restore(disk)


async def test_stopped_job_stops_again_while_the_disk_is_full(scene: Scene) -> None:
    """Resuming before there is space only brings the next error; cancelling keeps every bit."""
    disk = await sick_backup(scene, "enospc", ENOSPC, once=False)
    for _ in range(3):
        await scene.client.hear("BLOCK_JOB_ERROR", device="job", action="stop")
        await scene.client.hear("JOB_STATUS_CHANGE", id="job", status="paused")
        scene.client.mark()
        await scene.client.run("job-resume", id="job")
    await scene.client.hear("JOB_STATUS_CHANGE", id="job", status="paused")
    await disk.write(50, pattern=5)
    await scene.client.run("job-cancel", id="job")
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="cancelled")
    await disk.assert_dirty({1, 20, 21, 50})
    disk.chain.pop()
    await scene.drop_node("target")
    await scene.back_up(disk)
    await scene.restore(disk)


async def test_guest_write_that_cannot_be_saved_first_fails_and_the_job_goes_on(
    scene: Scene,
) -> None:
    """break-guest-write: the guest's request gets the error, the backup stays what it is."""
    disk = await scene.disk("d0")
    await scene.dirty_disks(disk)
    path = await disk.next_target()
    await scene.add_node("target", with_faults(qcow2(path), inject(FAULT, "write", once=True)))
    await scene.client.transaction(
        action(
            "blockdev-backup", device="d0", job_id="job", target="target", sync="incremental",
            bitmap="b0", speed=1,
        ),
        txn="try",
    )  # fmt: skip
    await scene.client.held("job")
    said = await scene.client.guest(disk.device, f"write -q -P 9 {FAULT * 65536} 64k")
    assert said == "write failed: Input/output error\n"
    await scene.client.release("job")
    disk.chain.append(path)
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="completed")
    await disk.assert_dirty(set())  # the write never came to the disk
    await scene.drop_node("target")
    await scene.restore(disk)
