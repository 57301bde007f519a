"""Two jobs of one transaction take the same bitmap: it settles with the last, good if both are.

Ours: QEMU refuses the second job. Between transactions a bitmap is still nobody else's.
"""

from __future__ import annotations

import pytest

from .harness import HELD, action, say
from .images import assert_content
from .scene import Scene, inject, qcow2, with_faults

BEFORE = {1, 20, 21}
MODES = ("individual", "grouped", "deferred")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fails", "first"), [(None, "one"), ("one", "one"), ("one", "two"), ("two", "one")]
)
async def test_shared_bitmap_settles_with_the_last_job(
    scene: Scene, mode: str, fails: str | None, first: str
) -> None:
    (disk,) = await scene.busy_disks(1)
    paths = {name: await disk.next_target() for name in ("one", "two")}
    for name, path in paths.items():
        rules = [inject(20, "write")] if name == fails else []
        await scene.add_node(f"target-{name}", with_faults(qcow2(path), *rules))
    at_start = list(disk.content)
    await scene.client.transaction(
        *(
            action(
                "blockdev-backup", device="d0", job_id=name, target=f"target-{name}",
                sync="incremental", bitmap="b0", speed=HELD,
            )
            for name in paths
        ),
        mode=mode,
        txn="try",
    )  # fmt: skip
    await scene.client.held(*paths)
    await disk.write(40, pattern=7)
    second = "two" if first == "one" else "one"
    await scene.client.release(first)
    cancels = mode == "grouped" and first == fails
    if mode == "grouped" and not cancels:
        await scene.client.hear("JOB_STATUS_CHANGE", id=first, status="waiting")
    else:
        await scene.client.hear("BLOCK_JOB_COMPLETED", device=first)
    if not cancels:
        say(f"{first} is over, {second} still needs the bitmap")
        assert await disk.is_frozen()
        await scene.client.release(second)
    status = "failed" if fails else "completed"
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="try", status=status)
    outcome = "reclaimed" if fails else "abdicated"
    assert done["bitmaps"] == [{"node": "d0", "name": "b0", "outcome": outcome}]
    disk.dirty = {40} if not fails else BEFORE | {40}
    await disk.assert_dirty(disk.dirty)
    for name in paths:
        await scene.drop_node(f"target-{name}")
    if not fails:
        for path in paths.values():
            await assert_content(path, at_start)
        disk.chain.append(paths["one"])
    await scene.back_up(disk)
    await scene.restore(disk)


async def test_shared_bitmap_is_free_again_when_the_second_job_cannot_be_prepared(
    scene: Scene,
) -> None:
    (disk,) = await scene.busy_disks(1)
    target = await disk.next_target()
    told = await scene.client.refused_transaction(
        disk.incremental(target, "one"), disk.incremental(scene.directory / "none", "two")
    )
    assert told.startswith("Could not open")
    await disk.assert_dirty(BEFORE)
    await scene.back_up(disk)
    await scene.restore(disk)
