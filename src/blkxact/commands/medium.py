"""Commands on the media of devices.

QEMU's counterpart: ``qapi/block.json``; ``block/qapi-sysemu.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError, device_not_found
from blkxact.qapi.block import Eject

from .command import Command


def find_device(layer: BlockLayer, device: str | None, qdev_id: str | None) -> BlockBackend:
    """Return the device named by its backend or its own id (``qmp_get_blk``)."""
    if (device is None) == (qdev_id is None):
        raise QmpError("Need exactly one of 'device' and 'id'")
    if device is not None:
        backend = layer.named_backend(device)
        if backend is None:
            raise device_not_found(device)
        return backend
    return layer.devices.find_backend(qdev_id or "")


async def eject(layer: BlockLayer, args: Eject) -> None:
    """eject: open the tray, if the device has one, and take the medium out."""
    backend = find_device(layer, args.device, args.id)
    if backend.qdev_path and not backend.removable:
        raise QmpError(f"Device '{args.id or args.device}' is not removable")
    node = backend.node
    if node is not None:
        node.check_operation(BlockOp.EJECT)
    if backend.qdev_path and not backend.tray_open:
        backend.tray_open = True
        who = {"device": backend.name, "id": backend.qdev_id or backend.qdev_path}
        layer.emit("DEVICE_TRAY_MOVED", {**who, "tray-open": True})
    if node is not None:
        async with drained([node]):
            backend.remove()
        await layer.close_unused_nodes()


COMMANDS: Final = [
    Command("eject", eject, Eject, system=True),
]
