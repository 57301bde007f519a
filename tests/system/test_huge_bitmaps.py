"""Operations on bitmaps of 16 TiB disks: others have their turns meanwhile, and nothing is torn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from blkxact.backup_job import BackupJob
from blkxact.bitmap import DirtyBitmap
from blkxact.dirty.roaring import UNION_BITS
from blkxact.errors import QmpError

from .conftest import Emulator

SIZE = 16 << 40
GRANULARITY = 65536
STEP = 1 << 29
"""From one dirty granule to the next."""
LEAST_TURNS = 10
"""Turns that others have while a bitmap is worked on, at the least."""


async def add_disk(emulator: Emulator, name: str) -> None:
    await emulator.execute("blockdev-add", driver="null-co", node_name=name, size=SIZE)


async def add_bitmap(emulator: Emulator, node: str, name: str, first: int = 0) -> DirtyBitmap:
    """Add a bitmap that is dirty all over the disk, thinly."""
    await emulator.execute("block-dirty-bitmap-add", node=node, name=name, granularity=GRANULARITY)
    bitmap = emulator.layer.find_bitmap(node, name)[1]
    for offset in range(first << 16, SIZE, STEP):
        bitmap.mark(offset, GRANULARITY)
    return bitmap


async def turns_during(work: Awaitable[Any]) -> tuple[Any, int]:
    """Return what the work returns, and how often another task ran meanwhile."""
    task = asyncio.ensure_future(work)
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return await task, turns


@pytest.fixture
async def disk(emulator: Emulator) -> Emulator:
    await add_disk(emulator, "disk")
    return emulator


@pytest.mark.parametrize("granularity", [GRANULARITY, 1 << 20, 32768])
async def test_merge_of_a_huge_bitmap_lets_others_have_their_turns(
    disk: Emulator, granularity: int
) -> None:
    source = await add_bitmap(disk, "disk", "source")
    await disk.execute(
        "block-dirty-bitmap-add", node="disk", name="target", granularity=granularity
    )
    merge = disk.execute(
        "block-dirty-bitmap-merge", node="disk", target="target", bitmaps=["source"]
    )
    _, turns = await turns_during(merge)
    assert turns > LEAST_TURNS
    target = disk.layer.find_bitmap("disk", "target")[1]
    assert target.count() == len(source.bits) * max(granularity, GRANULARITY)


async def test_merge_that_a_later_action_undoes_leaves_the_target_as_it_was(disk: Emulator) -> None:
    await add_bitmap(disk, "disk", "source")
    target = await add_bitmap(disk, "disk", "target", first=5)
    before = target.sha256()
    merge = {"node": "disk", "target": "target", "bitmaps": ["source"]}
    actions = [{"type": "block-dirty-bitmap-merge", "data": merge}, {"type": "abort", "data": {}}]
    with pytest.raises(QmpError, match="Abort"):
        await disk.execute("transaction", actions=actions)
    assert target.sha256() == before


async def test_digest_is_of_the_moment_in_which_it_was_asked_for(disk: Emulator) -> None:
    bitmap = await add_bitmap(disk, "disk", "b")
    before = bitmap.sha256()
    asked = asyncio.ensure_future(
        disk.execute("x-debug-block-dirty-bitmap-sha256", node="disk", name="b")
    )
    turns = 0
    while not asked.done():
        await asyncio.sleep(0)
        turns += 1
        if turns == LEAST_TURNS:
            await disk.layer.find_node("disk").pwrite(15 << 40 | GRANULARITY, b"guest")
    assert turns > LEAST_TURNS
    assert (await asked)["sha256"] == before != bitmap.sha256()


async def test_backup_by_a_huge_bitmap_is_begun_in_turns(disk: Emulator) -> None:
    await add_bitmap(disk, "disk", "b")
    await disk.execute("blockdev-add", driver="null-co", node_name="target", size=SIZE)
    backup = disk.execute(
        "blockdev-backup",
        job_id="job",
        device="disk",
        target="target",
        sync="incremental",
        bitmap="b",
    )
    _, turns = await turns_during(backup)
    assert turns > SIZE // GRANULARITY // UNION_BITS
    job = disk.layer.jobs["job"]
    assert isinstance(job, BackupJob)
    assert job.copy.copy_bitmap.count() == SIZE // STEP * GRANULARITY
    await disk.execute("block-job-cancel", device="job")
    await disk.jobs_over()
