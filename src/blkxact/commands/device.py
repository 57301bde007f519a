"""The guest's devices.

QEMU's counterpart: ``qapi/qdev.json``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block_layer import BlockLayer
from blkxact.qapi.qdev import DeviceAdd, DeviceDel

from .command import Command


async def device_add(layer: BlockLayer, args: DeviceAdd) -> None:
    """device_add."""
    layer.devices.add(args.driver, args.id, args.model_extra or {})


async def device_del(layer: BlockLayer, args: DeviceDel) -> None:
    """device_del; the device is gone when this returns."""
    layer.devices.remove(args.id)
    await layer.close_unused_nodes()
    layer.emit("DEVICE_DELETED", {"device": args.id, "path": f"/machine/peripheral/{args.id}"})


COMMANDS: Final = [
    Command("device_add", device_add, DeviceAdd),
    Command("device_del", device_del, DeviceDel),
]
