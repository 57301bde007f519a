"""Media taken out of devices."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from blkxact.machine.drives import add_drive
from blkxact.machine.options import DriveOptions

from .conftest import Emulator


async def plug(emulator: Emulator, driver: str | None = None) -> None:
    """Make the drive ``d`` with a medium, and plug it into a device ``dev``."""
    await emulator.create_disk("d")
    await add_drive(emulator.layer, DriveOptions("d", "/d.qcow2", "qcow2"))
    if driver is not None:
        await emulator.execute("device_add", driver=driver, id="dev", drive="d")


async def test_drive_without_a_device_loses_its_medium(emulator: Emulator) -> None:
    await plug(emulator)
    await emulator.execute("eject", device="d")
    assert not emulator.layer.graph.nodes
    assert emulator.layer.graph.backends["d"].node is None
    assert not emulator.named("DEVICE_TRAY_MOVED")
    await emulator.execute("eject", device="d")  # there is nothing to take out


async def test_tray_of_a_cdrom_opens_and_its_medium_goes(emulator: Emulator) -> None:
    await plug(emulator, "scsi-cd")
    await emulator.execute("eject", id="dev")
    moved = {"device": "d", "id": "dev", "tray-open": True}
    assert emulator.named("DEVICE_TRAY_MOVED") == [moved]
    assert not emulator.layer.graph.nodes
    await emulator.execute("eject", id="dev")
    assert emulator.named("DEVICE_TRAY_MOVED") == [moved]


async def test_disk_cannot_be_ejected(emulator: Emulator) -> None:
    await plug(emulator, "scsi-hd")
    with pytest.raises(QmpError, match="Device 'dev' is not removable"):
        await emulator.execute("eject", id="dev")
    assert emulator.layer.graph.backends["d"].node is not None


async def test_medium_that_a_job_uses_stays(emulator: Emulator) -> None:
    await plug(emulator)
    await emulator.create_disk("t")
    await emulator.add_disk("t")
    words = {"device": "d", "target": "t", "sync": "none", "job_id": "j"}
    await emulator.execute("blockdev-backup", **words)
    with pytest.raises(QmpError, match="block device is in use by block job: backup"):
        await emulator.execute("eject", device="d")
    assert emulator.layer.graph.backends["d"].node is not None
    await emulator.layer.shutdown()


async def test_device_must_be_named_once(emulator: Emulator) -> None:
    for words in ({}, {"device": "d", "id": "dev"}):
        with pytest.raises(QmpError, match="Need exactly one of 'device' and 'id'"):
            await emulator.execute("eject", **words)
    with pytest.raises(QmpError, match="Device 'nope' not found"):
        await emulator.execute("eject", device="nope")


async def test_a_floppy_takes_a_medium_that_is_read_only_and_writes_another(
    emulator: Emulator,
) -> None:
    await plug(emulator, "floppy")
    for name, read_only in (("ro", True), ("rw", False)):
        await emulator.create_disk(name)
        await emulator.add_disk(name, read_only=read_only)
        await emulator.execute("eject", id="dev")
        await emulator.execute("blockdev-insert-medium", id="dev", node_name=name)
        backend = emulator.layer.graph.backends["d"]
        assert backend.root is not None
        assert backend.root.may_write is not read_only
