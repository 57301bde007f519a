"""DEVICE_DELETED: one for each object that goes, those within a device first."""

from __future__ import annotations

from tests.emulator import Emulator


async def test_a_virtio_device_takes_its_backend_with_it() -> None:
    emulator = Emulator()
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    await emulator.execute_wire("device_add", {"driver": "virtio-scsi", "id": "c"})
    await emulator.execute_wire("device_add", {"driver": "scsi-hd", "id": "d", "drive": "n"})
    for device in ("d", "c"):
        await emulator.execute("device_del", id=device)
    assert emulator.named("DEVICE_DELETED") == [
        {"device": "d", "path": "/machine/peripheral/d"},
        {"path": "/machine/peripheral/c/virtio-backend"},
        {"device": "c", "path": "/machine/peripheral/c"},
    ]
