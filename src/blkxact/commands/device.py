"""The guest's devices.

QEMU's counterpart: ``qapi/qdev.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.qdev import DeviceAdd, DeviceDel, DeviceSyncConfig
from blkxact.qapi.versions import TYPED_PROPERTIES, behaves

from .command import Command


async def device_add(layer: BlockLayer, args: Mapping[str, Any]) -> None:
    """device_add; the members are as the client sent them."""
    layer.devices.add(args, typed=behaves(TYPED_PROPERTIES, layer.release))


async def device_del(layer: BlockLayer, args: DeviceDel) -> None:
    """device_del; the device is gone when this returns.

    Jobs that use the medium of a drive are cancelled (``blockdev_mark_auto_del``).
    """
    backend = layer.devices.find_state(args.id).backend
    if backend is not None and backend.name and backend.node is not None:
        for job in layer.block_jobs_on(backend.node):
            await job.cancel(force=False)
    device = layer.devices.remove(args.id)
    await layer.close_unused_nodes()
    if device.model.virtio:
        layer.emit("DEVICE_DELETED", {"path": f"{device.path}/virtio-backend"})
    named = {"device": device.id} if device.id is not None else {}
    layer.emit("DEVICE_DELETED", {**named, "path": device.path})


def device_sync_config(layer: BlockLayer, args: DeviceSyncConfig) -> None:
    """Refuse: no device here has a configuration that the host changes (device-sync-config)."""
    try:
        model = layer.devices.find_state(args.id).model
    except QmpError as error:
        raise QmpError(error.desc) from error  # of no class of its own
    raise QmpError(f"device-sync-config is not supported for '{model.virtio or model.name}'")


COMMANDS: Final = [
    Command("device-sync-config", device_sync_config, DeviceSyncConfig, system=True),
    Command("device_add", device_add, DeviceAdd, gen=False, system=True),
    Command("device_del", device_del, DeviceDel, system=True),
]
