"""``blockdev-create``: what is refused at once, what fails in the job, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError

from .conftest import MIB, Emulator


async def create(emulator: Emulator, job_id: str = "c", **options: Any) -> dict[str, Any]:
    """Run a job and return its JobInfo."""
    members = {"driver": "qcow2", "size": MIB} | options
    await emulator.execute("blockdev-create", job_id=job_id, options=members)
    await emulator.jobs_over()
    return next(job for job in await emulator.execute("query-jobs") if job["id"] == job_id)


@pytest.fixture
async def disk(emulator: Emulator) -> Emulator:
    """A disk whose file node ``f`` can be named; the image above it writes."""
    await emulator.create_disk("a", MIB)
    await emulator.execute("blockdev-add", driver="file", node_name="f", filename="/a.qcow2")
    await emulator.execute("blockdev-add", driver="qcow2", node_name="a", file="f")
    return emulator


async def test_job_id_in_use_is_refused_and_the_first_job_stays(disk: Emulator) -> None:
    first = await create(disk, file="f")
    with pytest.raises(QmpError, match=r"^Job ID 'c' already in use$"):
        await create(disk, file="f")
    assert await disk.execute("query-jobs") == [first]


@pytest.mark.parametrize("job_id", ["", "1c", "c c"])
async def test_malformed_job_id_is_refused(disk: Emulator, job_id: str) -> None:
    with pytest.raises(QmpError, match=f"^Invalid job ID '{job_id}'$"):
        await create(disk, job_id, file="f")


async def test_driver_that_makes_no_images_is_refused_at_once(disk: Emulator) -> None:
    with pytest.raises(QmpError, match=r"^Driver does not support blockdev-create$"):
        await disk.execute("blockdev-create", job_id="c", options={"driver": "null-co"})
    assert await disk.execute("query-jobs") == []


async def test_failed_job_has_done_its_one_step_as_in_qemu(disk: Emulator) -> None:
    job = await create(disk, file="f")
    assert job["error"].startswith("Permission conflict on node 'f'")
    assert (job["current-progress"], job["total-progress"]) == (1, 1)


async def test_options_are_judged_before_permissions(disk: Emulator) -> None:
    job = await create(disk, file="f", **{"cluster-size": 1000})
    assert job["error"] == "Cluster size must be a power of two between 512 and 2048k"


async def test_failed_job_lets_go_of_the_node_that_it_opened(emulator: Emulator) -> None:
    await emulator.create_disk("a", MIB)
    file = {"driver": "file", "filename": "/a.qcow2"}
    job = await create(emulator, file=file, **{"cluster-size": 1000})
    assert "error" in job
    assert not emulator.layer.graph.nodes
