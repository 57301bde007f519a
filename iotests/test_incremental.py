"""Incremental backups by transactions: over one and two bitmaps, and over generations.

QEMU's counterpart: iotests 124 and 257.
"""

from __future__ import annotations

import pytest

from .harness import action, say
from .images import assert_content, check, compare, make_image, qemu_img
from .scene import Scene

MODES = ("individual", "grouped", "deferred")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2])
async def test_three_generations_restore_every_disk(scene: Scene, count: int, mode: str) -> None:
    disks = await scene.busy_disks(count)
    for generation in range(3):
        for disk in disks:
            await disk.write(generation, 40 + generation, 63, pattern=50 + generation)
            await disk.assert_dirty(disk.dirty)
        await scene.back_up(*disks, txn=f"inc{generation}", mode=mode)
        await scene.restore(*disks)
    for disk in disks:
        assert len(disk.chain) == 4


async def test_backup_of_a_finished_chain_compares_equal_to_the_disk(scene: Scene) -> None:
    (disk,) = await scene.busy_disks(1)
    await scene.back_up(disk)
    await scene.client.run("device_del", id=disk.device)
    scene.disks.remove(disk)
    await scene.drop_node(disk.name)
    await compare(disk.path, disk.chain[-1])


@pytest.mark.qemu
async def test_increment_without_backing_file_is_rebased_by_qemu(scene: Scene) -> None:
    (disk,) = await scene.busy_disks(1)
    target = scene.directory / "inc.qcow2"
    increment = disk.incremental(target, "inc", mode="absolute-paths")
    await scene.client.transaction(increment, txn="inc")
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="inc")
    assert done["status"] == "completed"
    assert "backing file" not in await qemu_img("info", str(target))
    await qemu_img("rebase", "-u", "-b", disk.chain[-1].name, "-F", "qcow2", str(target))
    await assert_content(target, disk.content)


async def test_two_bitmaps_of_one_disk_keep_their_own_time(scene: Scene) -> None:
    """A daily bitmap is cleared by the daily backup; the weekly one goes on counting."""
    (disk,) = await scene.busy_disks(1)
    await scene.client.run("block-dirty-bitmap-add", node=disk.name, name="weekly")
    full = disk.chain[0]
    await disk.write(5, pattern=31)
    await scene.back_up(disk, txn="monday")
    await disk.write(6, pattern=32)
    await scene.back_up(disk, txn="tuesday")
    await disk.assert_dirty({5, 6}, "weekly")
    say("the weekly backup holds what both daily ones hold")
    monday = disk.chain[1]
    target = await make_image(scene.directory / "week.qcow2", backing=monday)
    weekly = disk.incremental(target, "weekly", bitmap="weekly")
    await scene.client.transaction(weekly, txn="weekly")
    await scene.client.hear("TRANSACTION_COMPLETED", id="weekly", status="completed")
    await disk.assert_dirty(set(), "weekly")
    await assert_content(target, disk.content)
    await check(full)


async def test_bitmap_made_anew_in_the_transaction_of_the_full_backup(scene: Scene) -> None:
    """Remove, add and back up as one: the new bitmap starts exactly at the new full backup."""
    (disk,) = await scene.busy_disks(1)
    await disk.write(9, pattern=90)
    full = scene.directory / "full2.qcow2"
    await scene.client.transaction(
        action("block-dirty-bitmap-clear", node=disk.name, name="b0"),
        action("block-dirty-bitmap-add", node=disk.name, name="b1", granularity=65536),
        action(
            "drive-backup", device=disk.name, job_id="full2", sync="full", speed=1,
            target=str(full), format="qcow2",
        ),
        txn="again",
    )  # fmt: skip
    at_full = list(disk.content)
    await disk.write(9, 33, pattern=91)
    await scene.client.release("full2")
    await scene.client.hear("TRANSACTION_COMPLETED", id="again", status="completed")
    await assert_content(full, at_full)
    disk.dirty = {9, 33}
    await disk.assert_dirty({9, 33}, "b1")
    disk.chain = [full]
    await scene.back_up(disk)
    await scene.restore(disk)
