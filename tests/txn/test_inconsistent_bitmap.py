"""A bitmap that a killed process left in its image: nothing may rely on it."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator


async def emulator_after_kill() -> Emulator:
    emulator = Emulator()
    await emulator.disk("a")
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b", persistent=True)
    await emulator.layer.shutdown()
    killed = Emulator(emulator.storage)
    await killed.open("a", "/a.qcow2")
    again = Emulator(killed.storage.killed())
    await killed.layer.shutdown()
    await again.open("a", "/a.qcow2")
    return again


@pytest.mark.parametrize("mode", ["on-success", "never", "always"])
async def test_backup_by_inconsistent_bitmap_is_refused(mode: str) -> None:
    emulator = await emulator_after_kill()
    with pytest.raises(QmpError, match="Bitmap 'b' is inconsistent and cannot be used"):
        await emulator.execute(
            "drive-backup",
            device="a",
            job_id="job",
            sync="bitmap",
            bitmap="b",
            bitmap_mode=mode,
            target="/copy",
        )
    await emulator.layer.shutdown()


async def test_remove_of_inconsistent_bitmap_takes_it_out_of_the_image() -> None:
    emulator = await emulator_after_kill()
    await emulator.execute("block-dirty-bitmap-remove", node="a", name="b")
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.open("a", "/a.qcow2")
    assert not again.layer.graph.nodes["a"].bitmaps
    await again.layer.shutdown()


async def test_resize_over_inconsistent_bitmap_is_refused_until_it_is_removed() -> None:
    emulator = await emulator_after_kill()
    node = emulator.layer.find_node("a")
    length = node.length
    with pytest.raises(QmpError, match="The new size must be a multiple of 512"):
        await emulator.execute("block_resize", node_name="a", size=100)
    with pytest.raises(QmpError, match="Bitmap 'b' is inconsistent and cannot be used"):
        await emulator.execute("block_resize", node_name="a", size=2 * length)
    assert node.length == length
    await emulator.execute("block-dirty-bitmap-remove", node="a", name="b")
    await emulator.execute("block_resize", node_name="a", size=2 * length)
    assert node.length == 2 * length
    await emulator.layer.shutdown()
