"""Jobs at the human monitor."""

from __future__ import annotations

import pytest
from beside_qemu import assert_answered_as_by_qemu
from tests.emulator import Emulator

from blkxact.testing.waiting import until

REFUSED = """
drive_mirror
drive_mirror x
drive_mirror x y
drive_mirror -n -f x y raw
drive_mirror -f -n x y
drive_mirror -z x y
drive_backup x
drive_backup x y
drive_backup -c x y raw z
block_job_cancel
block_job_cancel x
block_job_cancel -f x
block_job_cancel -x x
block_job_complete x
block_job_pause x
block_job_resume x
block_job_set_speed x
block_job_set_speed x y
block_job_set_speed x 1
block_job_set_speed x 1z
"""


@pytest.mark.qemu
async def test_jobs_at_the_human_monitor_are_refused_as_in_qemu() -> None:
    await assert_answered_as_by_qemu(*REFUSED.split("\n")[1:-1])


async def say(emulator: Emulator, line: str) -> None:
    assert await emulator.hmp(line) == "", line


@pytest.mark.parametrize("end", ["block_job_complete a", "block_job_cancel a"])
async def test_mirror_at_the_human_monitor_lives_and_ends(end: str) -> None:
    emulator = Emulator()
    await emulator.disk("a")
    backend = emulator.layer.find_backend("guest-a")
    assert backend is not None
    backend.name = backend.device_name = "a"
    emulator.layer.graph.backends["a"] = backend
    await say(emulator, "drive_mirror -f a /n.qcow2 qcow2")
    await until(lambda: emulator.named("BLOCK_JOB_READY"))
    job = emulator.layer.jobs["a"]
    await say(emulator, "block_job_set_speed a 2")
    assert job.info()["type"] == "mirror"
    (info,) = await emulator.execute("query-block-jobs")
    assert info["speed"] == 2 << 20
    await say(emulator, "block_job_pause a")
    await say(emulator, "block_job_resume a")
    await say(emulator, end)
    await emulator.jobs_over()
    assert emulator.named("BLOCK_JOB_COMPLETED")
    await emulator.layer.shutdown()


async def test_backup_at_the_human_monitor_copies_the_disk() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"data" * 1024)
    guest.name = guest.device_name = "a"
    emulator.layer.graph.backends["a"] = guest
    await say(emulator, "drive_backup -f a /n.raw raw")
    await emulator.jobs_over()
    assert emulator.named("BLOCK_JOB_COMPLETED")
    await emulator.layer.shutdown()
