"""Images with extended L2 entries in a whole emulator: made, described, targets of backups."""

from __future__ import annotations

from typing import Any

from .conftest import MIB, Emulator

CLUSTER = 65536


async def create(emulator: Emulator, name: str, **options: Any) -> None:
    """Make ``/name.qcow2``."""
    await (await emulator.storage.create(f"/{name}.qcow2")).close()
    file = {"driver": "file", "filename": f"/{name}.qcow2"}
    members = {"driver": "qcow2", "file": file, "size": 8 * MIB, "extended-l2": True, **options}
    await emulator.execute("blockdev-create", job_id="c", options=members)
    await emulator.jobs_over()
    (job,) = await emulator.execute("query-jobs")
    await emulator.execute("job-dismiss", id="c")
    assert "error" not in job, job


async def test_created_image_is_described_as_extended(emulator: Emulator) -> None:
    await create(emulator, "disk")
    await emulator.add_disk("disk")
    specific = emulator.layer.find_node("disk").driver.image_specific()
    assert specific is not None
    assert specific["data"]["extended-l2"] is True


async def test_backup_copies_whole_clusters_of_a_target_with_subclusters(
    emulator: Emulator,
) -> None:
    for name in ("disk", "target"):
        await create(emulator, name)
        await emulator.add_disk(name)
    await emulator.qemu_io("disk", "write -P 7 65k 1k")
    await emulator.qemu_io("disk", "write -P 8 1M 300k")
    await emulator.execute(
        "blockdev-backup", job_id="b", device="disk", target="target", sync="full"
    )
    await emulator.jobs_over()
    disk, target = (emulator.layer.find_node(name) for name in ("disk", "target"))
    assert target.driver.cluster_size == CLUSTER
    assert bytes(await target.pread(0, 8 * MIB)) == bytes(await disk.pread(0, 8 * MIB))
