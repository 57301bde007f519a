"""Targets whose clusters are smaller or larger than the bitmap's granularity.

What is copied comes in clusters of the target, so that none is half there; what is restored must be
the point in time whatever the sizes.

QEMU's counterpart: ``block_copy_calculate_cluster_size``.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from qemu.qmp import ExecuteError

from .harness import action
from .images import assert_content, make_image
from .scene import Disk, Scene, qcow2

SIZES = ("512", "4k", "1M", "2M")


async def write_and_release(scene: Scene, disk: Disk, job: str, txn: str) -> list[int]:
    """Let the guest write while the job has only begun; return the content before that."""
    at_start = list(disk.content)
    await disk.write(2, 22, 31, 32, 63, pattern=77)
    with suppress(ExecuteError):  # over already: with large clusters one piece can be all there is
        await scene.client.release(job)
    await scene.client.hear("TRANSACTION_COMPLETED", id=txn, status="completed")
    disk.dirty = {2, 22, 31, 32, 63}
    await disk.assert_dirty(disk.dirty)
    return at_start


@pytest.mark.parametrize("cluster_size", SIZES)
async def test_increment_on_a_chain_restores_the_point_in_time(
    scene: Scene, cluster_size: str
) -> None:
    (disk,) = await scene.busy_disks(1)
    target = await make_image(
        scene.directory / "inc.qcow2",
        backing=disk.chain[-1],
        options=f"cluster_size={cluster_size}",
    )
    await scene.client.transaction(disk.incremental(target, "inc", speed=1), txn="inc")
    at_start = await write_and_release(scene, disk, "inc", "inc")
    await assert_content(target, at_start)
    disk.chain.append(target)
    await scene.back_up(disk)
    await scene.restore(disk)


@pytest.mark.parametrize("cluster_size", SIZES)
async def test_full_backup_restores_the_point_in_time(scene: Scene, cluster_size: str) -> None:
    (disk,) = await scene.busy_disks(1)
    path = await make_image(scene.directory / "full.qcow2", options=f"cluster_size={cluster_size}")
    await scene.add_node("full", qcow2(path))
    await scene.client.transaction(
        action("block-dirty-bitmap-clear", node=disk.name, name="b0"),
        action(
            "blockdev-backup", device=disk.name, job_id="full", target="full", sync="full", speed=1
        ),
        txn="full again",
    )
    at_start = await write_and_release(scene, disk, "full", "full again")
    await scene.drop_node("full")
    await assert_content(path, at_start)
