"""Media taken out of devices."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from blkxact.machine.drives import add_drive
from blkxact.options import DriveOptions

from .conftest import House


async def plug(house: House, driver: str | None = None) -> None:
    """Make the drive ``d`` with a medium, and plug it into a device ``dev``."""
    await house.create_disk("d")
    await add_drive(house.layer, DriveOptions("d", "/d.qcow2", "qcow2"))
    if driver is not None:
        await house.execute("device_add", driver=driver, id="dev", drive="d")


async def test_drive_without_a_device_loses_its_medium(house: House) -> None:
    await plug(house)
    await house.execute("eject", device="d")
    assert not house.layer.graph.nodes
    assert house.layer.graph.backends["d"].node is None
    assert not house.named("DEVICE_TRAY_MOVED")
    await house.execute("eject", device="d")  # there is nothing to take out


async def test_tray_of_a_cdrom_opens_and_its_medium_goes(house: House) -> None:
    await plug(house, "scsi-cd")
    await house.execute("eject", id="dev")
    moved = {"device": "d", "id": "dev", "tray-open": True}
    assert house.named("DEVICE_TRAY_MOVED") == [moved]
    assert not house.layer.graph.nodes
    await house.execute("eject", id="dev")
    assert house.named("DEVICE_TRAY_MOVED") == [moved]


async def test_disk_cannot_be_ejected(house: House) -> None:
    await plug(house, "scsi-hd")
    with pytest.raises(QmpError, match="Device 'dev' is not removable"):
        await house.execute("eject", id="dev")
    assert house.layer.graph.backends["d"].node is not None


async def test_medium_that_a_job_uses_stays(house: House) -> None:
    await plug(house)
    await house.create_disk("t")
    await house.add_disk("t")
    words = {"device": "d", "target": "t", "sync": "none", "job_id": "j"}
    await house.execute("blockdev-backup", **words)
    with pytest.raises(QmpError, match="block device is in use by block job: backup"):
        await house.execute("eject", device="d")
    assert house.layer.graph.backends["d"].node is not None
    await house.layer.shutdown()


async def test_device_must_be_named_once(house: House) -> None:
    for words in ({}, {"device": "d", "id": "dev"}):
        with pytest.raises(QmpError, match="Need exactly one of 'device' and 'id'"):
            await house.execute("eject", **words)
    with pytest.raises(QmpError, match="Device 'nope' not found"):
        await house.execute("eject", device="nope")
