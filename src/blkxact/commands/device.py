"""The guest's devices, and objects.

QEMU's counterpart: ``qapi/qdev.json``, ``qapi/qom.json``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.qdev import DeviceAdd, DeviceDel
from blkxact.qapi.qom import ObjectDel, ObjectOptions, TlsCredsX509Properties
from blkxact.storage.tls import x509_context

from .command import Command


async def device_add(layer: BlockLayer, args: DeviceAdd) -> None:
    """device_add."""
    layer.devices.add(args.driver, args.id, args.model_extra or {})


async def device_del(layer: BlockLayer, args: DeviceDel) -> None:
    """device_del; the device is gone when this returns."""
    layer.devices.remove(args.id)
    await layer.close_unused_nodes()
    layer.emit("DEVICE_DELETED", {"device": args.id, "path": f"/machine/peripheral/{args.id}"})


def object_add(layer: BlockLayer, args: Any) -> None:
    """object-add."""
    if args.id in layer.objects:
        raise QmpError(
            f"attempt to add duplicate property '{args.id}' to object (type 'container')"
        )
    if isinstance(args, TlsCredsX509Properties):
        x509_context(args)  # refused here if it cannot be used
    layer.objects[args.id] = args


def object_del(layer: BlockLayer, args: ObjectDel) -> None:
    """object-del."""
    if args.id not in layer.objects:
        raise QmpError(f"object '{args.id}' not found")
    del layer.objects[args.id]


COMMANDS: Final = [
    Command("device_add", device_add, DeviceAdd),
    Command("device_del", device_del, DeviceDel),
    Command("object-add", object_add, ObjectOptions),
    Command("object-del", object_del, ObjectDel),
]
