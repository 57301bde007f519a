"""Images with extended L2 entries in a whole emulator: made, described, targets of backups."""

from __future__ import annotations

from typing import Any

from .conftest import MIB, House

CLUSTER = 65536


async def create(house: House, name: str, **options: Any) -> None:
    """Make ``/name.qcow2``."""
    await (await house.storage.create(f"/{name}.qcow2")).close()
    file = {"driver": "file", "filename": f"/{name}.qcow2"}
    members = {"driver": "qcow2", "file": file, "size": 8 * MIB, "extended-l2": True, **options}
    await house.execute("blockdev-create", job_id="c", options=members)
    await house.jobs_over()
    (job,) = await house.execute("query-jobs")
    await house.execute("job-dismiss", id="c")
    assert "error" not in job, job


async def test_created_image_is_described_as_extended(house: House) -> None:
    await create(house, "disk")
    await house.add_disk("disk")
    specific = house.layer.find_node("disk").driver.image_specific()
    assert specific is not None
    assert specific["data"]["extended-l2"] is True


async def test_backup_copies_whole_clusters_of_a_target_with_subclusters(house: House) -> None:
    for name in ("disk", "target"):
        await create(house, name)
        await house.add_disk(name)
    await house.qemu_io("disk", "write -P 7 65k 1k")
    await house.qemu_io("disk", "write -P 8 1M 300k")
    await house.execute("blockdev-backup", job_id="b", device="disk", target="target", sync="full")
    await house.jobs_over()
    disk, target = (house.layer.find_node(name) for name in ("disk", "target"))
    assert target.driver.cluster_size == CLUSTER
    assert bytes(await target.pread(0, 8 * MIB)) == bytes(await disk.pread(0, 8 * MIB))
