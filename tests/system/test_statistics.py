"""The numbers that say how much an emulator holds; all are zero in the end."""

from __future__ import annotations

from pathlib import Path

from blkxact.runtime.counts import LayerStatistics, NbdStatistics

from .conftest import MIB, Emulator


async def test_statistics_of_a_layer_count_what_there_is(
    emulator: Emulator, image_dir: Path
) -> None:
    assert emulator.layer.statistics() == LayerStatistics()
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.execute("device_add", driver="scsi-hd", id="d", drive="disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="other")
    socket = {"type": "unix", "data": {"path": str(image_dir / "nbd")}}
    await emulator.execute("nbd-server-start", addr=socket)
    await emulator.execute("block-export-add", type="nbd", id="e", node_name="disk")
    assert emulator.layer.statistics() == LayerStatistics(
        nodes=2, devices=1, bitmaps=2, exports=1, open_files=1
    )
    await emulator.layer.shutdown()
    assert emulator.layer.statistics() == LayerStatistics()
    assert emulator.layer.nbd_server.statistics() == NbdStatistics()


async def test_statistics_during_a_backup_count_its_job_and_its_busy_bitmap(
    emulator: Emulator,
) -> None:
    for name in ("disk", "target"):
        await emulator.create_disk(name)
        await emulator.add_disk(name)
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b")
    await emulator.qemu_io("disk", f"write 0 {MIB}")
    given = {"device": "disk", "target": "target", "sync": "incremental", "bitmap": "b"}
    await emulator.execute("blockdev-backup", job_id="j", speed=1, **given)
    busy = emulator.layer.statistics()
    assert (busy.jobs, busy.transactions, busy.busy_bitmaps) == (1, 1, 1)
    await emulator.execute("block-job-cancel", device="j", force=True)
    await emulator.jobs_over()
    await emulator.layer.close_unused_nodes()
    left = emulator.layer.statistics()
    assert (left.jobs, left.transactions, left.busy_bitmaps, left.nodes) == (0, 0, 0, 4)
    await emulator.layer.shutdown()
    assert emulator.layer.statistics() == LayerStatistics()
