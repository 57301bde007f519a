"""Drives: a backend with a name and the medium in it, as ``-drive`` makes them.

Invariants:

* A drive's members may be texts and may lack ``driver``: they are given the types that the schema
  has for them as far as the drivers are known; what is probed gets what all drivers have.

QEMU's counterpart: blockdev_init() in ``blockdev.c``, and the flat confused options of
``block/block-backend.c`` (blk_new_open).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.block.accounting import nanoseconds
from blkxact.block.backend import BlockBackend
from blkxact.block.copy_on_read import enable
from blkxact.block.node import BlockNode
from blkxact.block.timed_stats import MAX_INTERVAL
from blkxact.block.types import Permission
from blkxact.block_layer import BlockLayer
from blkxact.drivers import PROTOCOLS
from blkxact.drivers.image_options import IsDevice, file_options
from blkxact.errors import QmpError
from blkxact.machine.options import DriveOptions
from blkxact.qapi.blockdev import BlockdevOptions, BlockdevOptionsBase
from blkxact.qapi.describe import describe
from blkxact.qapi.strings import from_strings
from blkxact.runtime.throttle.limits import ThrottleLimits

from .temporary_overlay import add_overlay, snapshot_options

_CHILDREN: Final = ("file", "backing", "image", "target", "data-file")


async def add_drive(layer: BlockLayer, drive: DriveOptions) -> None:
    """Make the backend, open its medium, plug it in. Raises ``QmpError`` with nothing made."""
    limits = ThrottleLimits().changed(drive.throttling)
    limits.check()
    if drive.id in layer.graph.nodes or drive.id == drive.members.get("node-name"):
        raise QmpError(f"Device name '{drive.id}' conflicts with an existing node name")
    backend = BlockBackend(layer.graph, drive.id, perm=Permission.CONSISTENT_READ)
    try:
        if drive.filename or drive.members or drive.format:
            backend.insert(await _open_medium(layer, drive))
            _account(layer, backend, drive)
        else:
            backend.medium_flags = {"read-only": (drive.device or "").endswith("-cd")}
        backend.on_read_error = drive.on_read_error
        backend.on_write_error = drive.on_write_error
        backend.write_cache = drive.write_cache
        if limits.enabled:
            member = layer.throttle_groups.join(drive.throttle_group or drive.id)
            backend.set_throttle(member)
            member.group.configure(limits)
    except BaseException:
        backend.close()
        await layer.close_unused_nodes()
        raise
    layer.backends.append(backend)


async def _open_medium(layer: BlockLayer, drive: DriveOptions) -> BlockNode:
    """Open the image of a drive, and its overlay if it has one."""
    given, named = dict(drive.members), drive.filename
    overlay: dict[str, Any] = {}
    if drive.snapshot_folder is not None:
        given, overlay = snapshot_options(given)
    is_device = layer.storage.is_device
    if named and drive.format and _is_format(given.get("file")):
        given, named = _with_filename(given, named), ""
    members = typed(given, drive.format, is_device=is_device)
    if named:
        node = await layer.blockdev.open_image(named, members, drive.format)
    else:
        extra = {"driver": drive.format} if drive.format else {}
        node = await layer.blockdev.open({**extra, **members})
    _keep_texts(node, given)
    if drive.snapshot_folder is not None:
        members = typed(overlay, "qcow2", is_device=is_device)
        node = await add_overlay(layer, node, drive.snapshot_folder, members)
    if drive.copy_on_read:
        enable(node)
    return node


def _keep_texts(node: BlockNode, members: Mapping[str, Any]) -> None:
    """Let the names of a node and its children repeat what was given to the letter."""
    node.texts = {name: text for name, text in members.items() if isinstance(text, str)}
    for name, below in members.items():
        if isinstance(below, dict) and name in node.children:
            _keep_texts(node.children[name].node, below)


def _account(layer: BlockLayer, backend: BlockBackend, drive: DriveOptions) -> None:
    """Count as the drive says; without a medium QEMU does not look at it."""
    accounting = backend.accounting
    accounting.account_failed = drive.account_failed
    accounting.account_invalid = drive.account_invalid
    for text in drive.stats_intervals:
        if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MAX_INTERVAL:
            raise QmpError(f"Invalid interval length: {text}")
        accounting.add_interval(int(text), nanoseconds(layer.clock.monotonic()))


def _is_format(child: Any) -> bool:
    """Return whether the options of a child are those of an image format."""
    protocols = frozenset(PROTOCOLS.values())
    return isinstance(child, dict) and child.get("driver", "file") not in protocols


def _with_filename(members: dict[str, Any], filename: str) -> dict[str, Any]:
    """Give the name to the lowest file, which is below the formats that are named."""
    child = members.get("file", {})
    if _is_format(child):
        return {**members, "file": _with_filename(child, filename)}
    return {**members, "file": {"filename": filename, **child}}


def typed(
    members: dict[str, Any], driver: str | None = None, *, is_device: IsDevice
) -> dict[str, Any]:
    """Return members of BlockdevOptions with their texts converted.

    ``driver`` is that of the node, if ``members`` does not say it. A child that has a filename and
    no driver is a file or a device.
    """
    named = dict(members)
    for child in _CHILDREN:
        below = named.get(child)
        if isinstance(below, dict):
            named[child] = typed(_with_driver(below, is_device), is_device=is_device)
    driver = named.get("driver", driver)
    if driver is None:
        return _converted(BlockdevOptionsBase, named)
    converted = _converted(BlockdevOptions, {**named, "driver": driver})
    return converted if "driver" in named else {k: v for k, v in converted.items() if k != "driver"}


def _with_driver(members: dict[str, Any], is_device: IsDevice) -> dict[str, Any]:
    if "driver" not in members and "filename" in members and ":" not in members["filename"]:
        return {**file_options(members["filename"], is_device), **members}
    return members


def _converted(model: Any, members: dict[str, Any]) -> dict[str, Any]:
    result = from_strings(describe(model), members)
    assert isinstance(result, dict)  # it was one
    return result
