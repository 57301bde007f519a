"""Commands on the media of devices, and on their trays.

QEMU's counterpart: ``qapi/block.json``; ``block/qapi-sysemu.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.accounting import Operation
from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.block.node import BlockNode
from blkxact.block_layer import BlockLayer
from blkxact.enums import BlockdevChangeReadOnlyMode
from blkxact.errors import QmpError, device_not_found
from blkxact.qapi.block import (
    BlockdevChangeMedium,
    BlockdevCloseTray,
    BlockdevInsertMedium,
    BlockdevRemoveMedium,
    BlockLatencyHistogramSet,
    Eject,
)

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


def open_tray(layer: BlockLayer, args: Eject) -> None:
    """blockdev-open-tray; without a tray there is nothing to open."""
    backend = find_device(layer, args.device, args.id)
    _check_removable(backend, args.id or args.device)
    _move_tray(layer, backend, is_open=True)


def close_tray(layer: BlockLayer, args: BlockdevCloseTray) -> None:
    """blockdev-close-tray; without a tray there is nothing to close."""
    backend = find_device(layer, args.device, args.id)
    _check_removable(backend, args.device or args.id)
    _move_tray(layer, backend, is_open=False)


async def remove_medium(layer: BlockLayer, args: BlockdevRemoveMedium) -> None:
    """blockdev-remove-medium."""
    await _remove(layer, find_device(layer, None, args.id), args.id)


def insert_medium(layer: BlockLayer, args: BlockdevInsertMedium) -> None:
    """blockdev-insert-medium."""
    backend = find_device(layer, None, args.id)
    node = layer.graph.find(args.node_name)
    if node is None:
        raise QmpError(f"Node '{args.node_name}' not found")
    if any(edge.parent.is_backend for edge in node.parents):
        raise QmpError(f"Node '{args.node_name}' is already in use")
    _insert(backend, node)


async def change_medium(layer: BlockLayer, args: BlockdevChangeMedium) -> None:
    """blockdev-change-medium: open the image, the tray; change the medium; close the tray."""
    backend = find_device(layer, args.device, args.id)
    name = args.id or args.device
    backend.note_medium()
    flags = {**backend.medium_flags, "auto-read-only": False}
    if args.read_only_mode is not BlockdevChangeReadOnlyMode.RETAIN:
        flags["read-only"] = args.read_only_mode is BlockdevChangeReadOnlyMode.READ_ONLY
    options = {"detect-zeroes": "on" if backend.medium_detects_zeroes else "off"}
    node = await layer.blockdev.open_image(args.filename, options, args.format, inherited=flags)
    layer.graph.ref(node)
    try:
        _check_removable(backend, name)
        _move_tray(layer, backend, is_open=True)
        await _remove(layer, backend, name)
        _insert(backend, node)
        _move_tray(layer, backend, is_open=False)
    finally:
        layer.graph.unref(node)
        await layer.close_unused_nodes()


async def eject(layer: BlockLayer, args: Eject) -> None:
    """eject: open the tray, if the device has one, and take the medium out."""
    backend = find_device(layer, args.device, args.id)
    _check_removable(backend, args.id or args.device)
    _move_tray(layer, backend, is_open=True)
    await _remove(layer, backend, args.device or args.id)


def _check_removable(backend: BlockBackend, name: str | None) -> None:
    if backend.qdev_path and not backend.removable:
        raise QmpError(f"Device '{name}' is not removable")


def _move_tray(layer: BlockLayer, backend: BlockBackend, *, is_open: bool) -> None:
    if backend.has_tray and backend.tray_open != is_open:
        backend.tray_open = is_open
        who = {"device": backend.name, "id": backend.qdev_path}
        layer.emit("DEVICE_TRAY_MOVED", {**who, "tray-open": is_open})


async def _remove(layer: BlockLayer, backend: BlockBackend, name: str | None) -> None:
    """Take the medium out, if there is one; the tray is open."""
    _check_removable(backend, name)
    if backend.has_tray and not backend.tray_open:
        raise QmpError(f"Tray of device '{name}' is not open")
    node = backend.node
    if node is None:
        return
    node.check_operation(BlockOp.EJECT)
    async with drained([node]):
        backend.remove()
    await layer.close_unused_nodes()


def _insert(backend: BlockBackend, node: BlockNode) -> None:
    """Put a medium in; the tray is open and empty. Raises ``QmpError``."""
    if backend.qdev_path and not backend.removable:
        raise QmpError("Device is not removable")
    if backend.has_tray and not backend.tray_open:
        raise QmpError("Tray of the device is not open")
    if backend.node is not None:
        raise QmpError("There already is a medium in the device")
    backend.insert(node)


def set_latency_histogram(layer: BlockLayer, args: BlockLatencyHistogramSet) -> None:
    """block-latency-histogram-set: for reads, writes and flushes, or no more at all."""
    accounting = find_device(layer, None, args.id).accounting
    wanted = {
        Operation.READ: args.boundaries_read,
        Operation.WRITE: args.boundaries_write,
        Operation.ZONE_APPEND: args.boundaries_zap,
        Operation.FLUSH: args.boundaries_flush,
    }
    if args.boundaries is None and not any(each is not None for each in wanted.values()):
        accounting.clear_histograms()
    for operation, own in wanted.items():
        boundaries = args.boundaries if own is None else own
        if boundaries is not None and not accounting.set_histogram(operation, boundaries):
            kind = operation.name.lower().replace("_", " ")
            raise QmpError(f"Device '{args.id}' set {kind} boundaries fail")


def _on_medium(name: str, handler: Any, model: Any) -> Command:
    return Command(name, handler, model, system=True)


COMMANDS: Final = [
    _on_medium("block-latency-histogram-set", set_latency_histogram, BlockLatencyHistogramSet),
    _on_medium("blockdev-change-medium", change_medium, BlockdevChangeMedium),
    _on_medium("blockdev-close-tray", close_tray, BlockdevCloseTray),
    _on_medium("blockdev-insert-medium", insert_medium, BlockdevInsertMedium),
    _on_medium("blockdev-open-tray", open_tray, Eject),
    _on_medium("blockdev-remove-medium", remove_medium, BlockdevRemoveMedium),
    _on_medium("eject", eject, Eject),
]
