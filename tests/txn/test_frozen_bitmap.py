"""A bitmap that a job has frozen, when its image becomes read-only below a snapshot."""

from __future__ import annotations

from tests.emulator import KIB, Emulator


async def freeze_and_snapshot(emulator: Emulator, **options: object) -> None:
    """Two clusters dirty, one before and one after a job froze the bitmap; then a snapshot."""
    guest = await emulator.disk("a")
    await emulator.execute(
        "block-dirty-bitmap-add", node="a", name="b", persistent=True, granularity=64 * KIB
    )
    await guest.pwrite(0, b"x" * 64 * KIB)
    await emulator.execute(
        "drive-backup", device="a", job_id="job", target="/copy", bitmap="b", speed=1, **options
    )
    await guest.pwrite(128 * KIB, b"y" * 64 * KIB)
    await emulator.execute(
        "blockdev-snapshot-sync",
        node_name="a",
        snapshot_file="/overlay",
        snapshot_node_name="overlay",
    )


async def test_bitmap_frozen_below_a_snapshot_is_stored_with_all_its_bits() -> None:
    emulator = Emulator()
    await freeze_and_snapshot(emulator, sync="incremental")
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.open("a", "/a.qcow2")
    bitmap = again.layer.graph.nodes["a"].bitmaps["b"]
    assert list(bitmap.runs()) == [(0, 64 * KIB), (128 * KIB, 64 * KIB)]
    assert bitmap.enabled
    await again.layer.shutdown()


async def test_always_job_cancelled_below_a_snapshot_leaves_its_rest_dirty() -> None:
    emulator = Emulator()
    await freeze_and_snapshot(emulator, sync="full", bitmap_mode="always")
    bitmap = emulator.layer.graph.nodes["a"].bitmaps["b"]
    assert bitmap.read_only
    await emulator.execute("job-cancel", id="job")
    await emulator.jobs_over()
    assert bitmap.get(128 * KIB)
    assert bitmap.get(bitmap.size - 1)
    assert not bitmap.busy
    await emulator.layer.shutdown()
