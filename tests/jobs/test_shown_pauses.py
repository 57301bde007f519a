"""When a pause shows in the status: at the start of a transaction's jobs, and before replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from blkxact.testing.waiting import until
from tests.emulator import Emulator


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    await emulator.disk("a")
    await emulator.create("/target.qcow2")
    await emulator.open("target", "/target.qcow2")
    await emulator.qemu_io("guest-a", "write 0 512k")
    return emulator


def statuses(emulator: Emulator) -> list[str]:
    return [data["status"] for data in emulator.named("JOB_STATUS_CHANGE")]


async def backup(emulator: Emulator, **members: Any) -> None:
    await emulator.execute(
        "blockdev-backup", job_id="job", device="a", target="target", sync="full", **members
    )


def job(emulator: Emulator) -> Mapping[str, Any]:
    return emulator.layer.jobs["job"].info()


async def test_a_backup_begins_in_a_drained_section_and_says_so(emulator: Emulator) -> None:
    await backup(emulator)
    assert statuses(emulator) == ["created", "running", "paused", "running"]
    await emulator.jobs_over()
    assert statuses(emulator)[4:] == ["waiting", "pending", "concluded", "null"]


async def test_a_mirror_does_not_begin_in_one(emulator: Emulator) -> None:
    await emulator.execute(
        "blockdev-mirror", job_id="job", device="a", target="target", sync="full"
    )
    assert statuses(emulator) == ["created", "running"]
    await emulator.execute("job-cancel", id="job")
    await emulator.jobs_over()


async def test_a_resume_is_reported_before_its_reply(emulator: Emulator) -> None:
    await backup(emulator, speed=65536)
    await emulator.execute("job-pause", id="job")
    await until(lambda: job(emulator)["status"] == "paused")
    await emulator.execute("job-resume", id="job")
    assert job(emulator)["status"] == "running"
    await emulator.execute("job-pause", id="job")  # before the job has come to work again
    await until(lambda: job(emulator)["status"] == "paused")
    await emulator.execute("job-cancel", id="job")
    assert job(emulator)["status"] == "running"
    await emulator.jobs_over()
    assert statuses(emulator)[-3:] == ["aborting", "concluded", "null"]
