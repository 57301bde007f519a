"""What queries tell of nodes and devices.

QEMU's counterpart: ``block/qapi.c``; ``qapi/block-core.json`` (ImageInfo, BlockDeviceInfo,
BlockInfo, BlockStats).
"""

from __future__ import annotations

from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block.driver_api import ChildRole
from blkxact.block.internal_snapshots import describe_snapshot
from blkxact.block.node import BlockNode
from blkxact.block.node_filename import backing_filename
from blkxact.errors import QmpError
from blkxact.throttle.limits import ThrottleLimits, device_members

Info = dict[str, Any]


def actual_size(node: BlockNode) -> int | None:
    """Return the bytes that the node's image takes on its storage, if that is known."""
    own = node.driver.allocated_size()
    if own is not None:
        return own
    roles = ChildRole.DATA | ChildRole.METADATA | ChildRole.FILTERED
    sizes = [actual_size(edge.node) for edge in node.children.values() if edge.role & roles]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def image_info(node: BlockNode) -> Info:
    """Return ImageInfo of one image, without what lies below it."""
    driver = node.driver
    info: Info = {
        "filename": node.filename,
        "format": driver.format_name,
        "virtual-size": node.length,
    }
    if driver.internal_snapshots is not None and driver.internal_snapshots.entries:
        info["snapshots"] = [describe_snapshot(s) for s in driver.internal_snapshots.entries]
    size = actual_size(node)
    if size is not None:
        info["actual-size"] = size
    described = _described(node).driver
    if described.cluster_size is not None:
        info["cluster-size"] = described.cluster_size
    if described.dirty_flag is not None:
        info["dirty-flag"] = described.dirty_flag
    specific = driver.image_specific()
    if specific is not None:
        info["format-specific"] = specific
    if driver.backing_file:
        info["backing-filename"] = driver.backing_file
        info["full-backing-filename"] = full_backing_filename(node)
        if driver.backing_format:
            info["backing-filename-format"] = driver.backing_format
    return info


def _described(node: BlockNode) -> BlockNode:
    """Return the node whose BlockDriverInfo this one passes on: a filter has none of its own."""
    while node.filtered is not None:
        node = node.filtered
    return node


def layers(node: BlockNode, *, skip_implicit: bool = False) -> list[BlockNode]:
    """Return the node and the filtered nodes and backing files below it.

    ``skip_implicit`` leaves out filters below it that jobs have put in.
    """
    found = [node]
    while (below := node.filtered if node.driver.is_filter else node.backing) is not None:
        node = below
        if not (skip_implicit and node.implicit):
            found.append(node)
    return found


def full_backing_filename(node: BlockNode) -> str:
    """Return the backing file's name as seen from here: relative names start at the image."""
    try:
        return backing_filename(node)
    except QmpError:
        return node.driver.backing_file


def bitmaps_info(node: BlockNode) -> list[Info]:
    """Return BlockDirtyInfo of every bitmap, the latest first; successors are nameless.

    So are the bitmaps in which filters above and the node itself keep count of their copies.
    """
    latest_first = list(node.bitmaps.values())[::-1]
    successors = [bitmap.successor for bitmap in latest_first if bitmap.successor is not None]
    above = (edge.parent for edge in node.parents if isinstance(edge.parent, BlockNode))
    copies = [b for filter_ in above if filter_.filtered is node for b in filter_.driver.copied]
    own = node.driver.own_bitmaps
    return [bitmap.describe() for bitmap in (*own, *copies, *successors, *latest_first)]


def device_info(
    node: BlockNode, backend: BlockBackend | None = None, *, flat: bool = False
) -> Info:
    """Return BlockDeviceInfo of a node, or of a backend's medium.

    Members of lower layers are in it unless ``flat``, and its depth is that of what is told.
    """
    below = [] if flat else layers(node, skip_implicit=backend is not None)[1:]
    group = backend.throttle.group if backend is not None and backend.throttle else None
    info: Info = {
        "file": node.filename,
        "node-name": node.node_name,
        "ro": node.read_only,
        "drv": node.driver.format_name,
        "encrypted": False,
        "detect_zeroes": node.detect_zeroes,
        "write_threshold": 0,
        "backing_file_depth": len(below),
        "cache": {
            "writeback": backend.write_cache if backend is not None else True,
            "direct": node.cache["direct"],
            "no-flush": node.cache["no-flush"],
        },
        "image": image_info(node),
        **device_members(group.limits if group else ThrottleLimits()),
    }
    image = info["image"]
    for layer in below:
        image["backing-image"] = image = image_info(layer)
    if group is not None:
        info["group"] = group.name
    if node.backing is not None:
        info["backing_file"] = node.backing.filename
    bitmaps = bitmaps_info(node)
    if bitmaps:
        info["dirty-bitmaps"] = bitmaps
    return info


def block_info(backend: BlockBackend) -> Info:
    """Return BlockInfo."""
    info: Info = {
        "device": backend.name,
        "type": "unknown",
        "removable": backend.removable or not backend.qdev_path,
        "locked": backend.locked,
    }
    if backend.qdev_path:
        info["qdev"] = backend.qdev_path
    if backend.removable:
        info["tray_open"] = backend.tray_open
    if backend.qdev_path and not backend.removable:
        info["io-status"] = backend.io_status
    node = backend.node
    if node is not None:
        while node.implicit and node.filtered is not None:
            node = node.filtered
        info["inserted"] = device_info(node, backend)
    return info


_OPERATIONS = ("rd", "wr", "flush", "unmap")
_COUNTERS = (
    "rd_bytes",
    "wr_bytes",
    "unmap_bytes",
    "rd_merged",
    "wr_merged",
    "unmap_merged",
    *(f"{op}_operations" for op in _OPERATIONS),
    *(f"{op}_total_time_ns" for op in _OPERATIONS),
    *(f"failed_{op}_operations" for op in _OPERATIONS),
    *(f"invalid_{op}_operations" for op in _OPERATIONS),
)


def stats(node: BlockNode) -> Info:
    """Return BlockStats. Requests are not timed here; only the farthest write is known."""
    info: Info = {
        "node-name": node.node_name,
        "stats": {
            **dict.fromkeys(_COUNTERS, 0),
            "wr_highest_offset": node.highest_write,
            "account_invalid": True,
            "account_failed": True,
            "timed_stats": [],
        },
    }
    if node.primary is not None:
        info["parent"] = stats(node.primary)
    if node.backing is not None:
        info["backing"] = stats(node.backing)
    return info
