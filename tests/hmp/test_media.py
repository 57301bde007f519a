"""Media, snapshots and exports at the human monitor."""

from __future__ import annotations

import pytest
from beside_qemu import assert_answered_as_by_qemu
from tests.emulator import Emulator

from blkxact.machine.drives import add_drive
from blkxact.machine.options import DriveOptions

REFUSED = """
eject
eject x
eject -x x
change
change x
change x y
change x y raw
change x y raw z
change -f x y
device_del
device_del x
snapshot_blkdev
snapshot_blkdev x
snapshot_blkdev x /y
snapshot_blkdev -n x /y raw
snapshot_blkdev_internal x
snapshot_blkdev_internal x y
snapshot_delete_blkdev_internal x y
snapshot_delete_blkdev_internal x y z
nbd_server_add
nbd_server_add -w x
nbd_server_remove
nbd_server_remove x
nbd_server_remove -f x
nbd_server_stop
nbd_server_start
nbd_server_start x
nbd_server_start unix:
nbd_server_start fd:
nbd_server_start fd:x
nbd_server_start -w localhost:0
info blockstats x
system_reset x
system_powerdown x
"""


@pytest.mark.qemu
async def test_lines_are_refused_as_in_qemu() -> None:
    await assert_answered_as_by_qemu(*REFUSED.split("\n")[1:-1])


@pytest.fixture
async def emulator() -> Emulator:
    """With a disk ``d`` and a CD drive ``cd``."""
    emulator = Emulator()
    await emulator.create_disk("d")
    await add_drive(emulator.layer, DriveOptions("d", "/d.qcow2", "qcow2"))
    for name in ("one", "two"):
        await emulator.create(f"/{name}.iso", "raw")
    await add_drive(emulator.layer, DriveOptions("cd", "/one.iso", "raw"))
    await emulator.execute("device_add", driver="scsi-cd", id="c", drive="cd")
    return emulator


async def test_a_medium_is_ejected_and_changed(emulator: Emulator) -> None:
    assert not await emulator.hmp("eject cd")
    assert "cd: [not inserted]" in await emulator.hmp("info block")
    assert not await emulator.hmp("change cd /two.iso raw read-only")
    assert "/two.iso (raw, read-only)" in await emulator.hmp("info block cd")
    assert not await emulator.hmp("device_del c")
    assert [one["device"] for one in emulator.named("DEVICE_DELETED")] == ["c"]


async def test_snapshots_are_made_and_deleted(emulator: Emulator) -> None:
    assert not await emulator.hmp("snapshot_blkdev_internal d s")
    assert "already exists" in await emulator.hmp("snapshot_blkdev_internal d s")
    assert not await emulator.hmp("snapshot_delete_blkdev_internal d s")
    assert not await emulator.hmp("snapshot_blkdev d /over.qcow2")
    assert "/over.qcow2 (qcow2)" in await emulator.hmp("info block d")


async def test_counters_are_shown_in_lines(emulator: Emulator) -> None:
    lines = (await emulator.hmp("info blockstats")).splitlines()
    assert lines[0].startswith("d: rd_bytes=0 wr_bytes=0 rd_operations=0")
    assert lines[1].startswith("cd: ")


async def test_all_disks_are_exported_or_none(emulator: Emulator, tmp_path) -> None:
    path = tmp_path / "nbd"
    assert not await emulator.hmp(f"nbd_server_start -a unix:{path}")
    found = [one["id"] for one in await emulator.execute("query-block-exports")]
    assert sorted(found) == ["cd", "d"]
    assert not await emulator.hmp("nbd_server_remove d")
    assert not await emulator.hmp("nbd_server_add -w d other")
    assert not await emulator.hmp("nbd_server_stop")
    # The medium of a CD cannot be written, so the server is closed again.
    assert "Error: " in await emulator.hmp(f"nbd_server_start -a -w unix:{path}")
    assert await emulator.hmp("nbd_server_stop") == "Error: NBD server not running\r\n"
    await emulator.layer.shutdown()
