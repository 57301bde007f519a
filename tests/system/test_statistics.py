"""The numbers that say how much an emulator holds; all are zero in the end."""

from __future__ import annotations

from pathlib import Path

from blkxact.counts import LayerStatistics, NbdStatistics

from .conftest import MIB, House


async def test_statistics_of_a_layer_count_what_there_is(house: House, image_dir: Path) -> None:
    assert house.layer.statistics() == LayerStatistics()
    await house.create_disk("disk")
    await house.add_disk("disk")
    await house.execute("device_add", driver="scsi-hd", id="d", drive="disk")
    await house.execute("block-dirty-bitmap-add", node="disk", name="b")
    await house.execute("block-dirty-bitmap-add", node="disk", name="other")
    socket = {"type": "unix", "data": {"path": str(image_dir / "nbd")}}
    await house.execute("nbd-server-start", addr=socket)
    await house.execute("block-export-add", type="nbd", id="e", node_name="disk")
    assert house.layer.statistics() == LayerStatistics(
        nodes=2, devices=1, bitmaps=2, exports=1, open_files=1
    )
    await house.layer.shutdown()
    assert house.layer.statistics() == LayerStatistics()
    assert house.layer.nbd_server.statistics() == NbdStatistics()


async def test_statistics_during_a_backup_count_its_job_and_its_busy_bitmap(house: House) -> None:
    for name in ("disk", "target"):
        await house.create_disk(name)
        await house.add_disk(name)
    await house.execute("block-dirty-bitmap-add", node="disk", name="b")
    await house.qemu_io("disk", f"write 0 {MIB}")
    given = {"device": "disk", "target": "target", "sync": "incremental", "bitmap": "b"}
    await house.execute("blockdev-backup", job_id="j", speed=1, **given)
    busy = house.layer.statistics()
    assert (busy.jobs, busy.transactions, busy.busy_bitmaps) == (1, 1, 1)
    await house.execute("block-job-cancel", device="j", force=True)
    await house.jobs_over()
    await house.layer.close_unused_nodes()
    left = house.layer.statistics()
    assert (left.jobs, left.transactions, left.busy_bitmaps, left.nodes) == (0, 0, 0, 4)
    await house.layer.shutdown()
    assert house.layer.statistics() == LayerStatistics()
