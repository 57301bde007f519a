"""What queries report of nodes and devices.

QEMU's counterpart: ``block/qapi.c``; ``qapi/block-core.json`` (ImageInfo, BlockDeviceInfo,
BlockInfo, BlockStats).
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.accounting import COUNTERS
from blkxact.block.backend import BlockBackend
from blkxact.block.chain import (
    OWN_DATA,
    next_layer,
    skip_implicit_filters,
    snapshots_of,
)
from blkxact.block.internal_snapshots import describe_snapshot
from blkxact.block.node import BlockNode
from blkxact.block.node_filename import Filenames, backing_filename
from blkxact.block.types import ChildRole
from blkxact.dirty.order import latest_first
from blkxact.errors import QmpError
from blkxact.qapi.limits import INT64_MAX
from blkxact.runtime.steps import Steps, at_once
from blkxact.runtime.throttle.limits import ThrottleLimits, device_members

from .limits import LimitsFinder

Info = dict[str, Any]

BITMAPS_PER_STEP: Final = 1000
"""Bitmaps that are described before other tasks run."""


def actual_size(node: BlockNode) -> int | None:
    """Return the bytes that the node's image takes on its storage, if that is known."""
    driver = node.driver
    own = driver.allocated_size()
    if own is not None:
        return own
    if driver.is_protocol or driver.has_debug_events:  # blkdebug is a protocol, too, in QEMU
        return None
    total = 0
    for edge in node.children.values():
        if edge.role & (ChildRole.FILTERED if driver.is_filter else OWN_DATA):
            size = actual_size(edge.node)
            if size is None:
                return None
            total += size
    return total


def image_info(node: BlockNode) -> Info:
    """Return ImageInfo of one image, without the layers below it."""
    return _own_info(node, node.filename)


def _own_info(node: BlockNode, filename: str) -> Info:
    """Return ImageInfo of one image, without the layers below it."""
    driver = node.driver
    info: Info = {
        "filename": filename,
        "format": driver.format_name,
        "virtual-size": node.length,
    }
    snapshots = snapshots_of(node)
    if snapshots is not None and snapshots.entries:
        info["snapshots"] = [describe_snapshot(entry) for entry in snapshots.entries]
    size = actual_size(node)
    if size is not None:
        info["actual-size"] = size
    described = _with_driver_info(node).driver
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


def _with_driver_info(node: BlockNode) -> BlockNode:
    """Return the node whose BlockDriverInfo is the node's: filters and ``raw`` have none."""
    while node.filtered is not None or node.driver.format_name == "raw":
        assert node.primary is not None
        node = node.primary
    return node


def _next_layer(node: BlockNode, *, skip_implicit: bool) -> BlockNode | None:
    """Return the filtered node or the backing file below a node.

    ``skip_implicit`` leaves out filters that jobs have put in.
    """
    below = next_layer(node)
    while skip_implicit and below is not None and below.implicit:
        below = next_layer(below)
    return below


def full_backing_filename(node: BlockNode) -> str:
    """Return the backing file's name as seen from here: relative names start at the image."""
    try:
        return backing_filename(node)
    except QmpError:
        return node.driver.backing_file


def bitmaps_info(node: BlockNode) -> list[Info]:
    """Return BlockDirtyInfo of every bitmap; see ``described_bitmaps``."""
    return at_once(described_bitmaps(node))


def described_bitmaps(node: BlockNode) -> Steps[list[Info]]:
    """Return BlockDirtyInfo of every bitmap, the latest first; successors are nameless."""
    named = list(node.bitmaps.values())
    successors = [bitmap.successor for bitmap in named if bitmap.successor is not None]
    infos: list[Info] = []
    silent = [bitmap for bitmap in node.shown_bitmaps if bitmap not in node.job_bitmaps]
    for bitmap in latest_first((*node.shown_bitmaps, *successors, *named)):
        infos.append(bitmap.describe() | ({"recording": False} if bitmap in silent else {}))
        if len(infos) % BITMAPS_PER_STEP == 0:
            yield
    return infos


def _write_threshold(node: BlockNode) -> int:
    """Return the threshold as QEMU does: it is set as an unsigned number and shown as a signed."""
    offset = node.write_threshold.offset if node.write_threshold else 0
    return offset if offset <= INT64_MAX else offset - (1 << 64)


class Describer:
    """What one query has found out: each image is described once, however many chains it is in.

    Descriptions of lower layers are parts of those above, so the replies of a query share them. The
    caller holds the layer's lock: the graph stays as it is.
    """

    def __init__(self) -> None:
        self._names = Filenames()
        self._limits = LimitsFinder()
        self._images: dict[tuple[BlockNode, bool], tuple[Info, int]] = {}
        """ImageInfo down to the last layer and how many layers are below; by image and whether
        implicit filters are left out."""

    def _image(self, node: BlockNode, *, skip_implicit: bool) -> tuple[Info, int]:
        """Return ImageInfo of a node and all layers below it, and the number of these layers."""
        chain: list[BlockNode] = []
        layer: BlockNode | None = node
        while layer is not None and (layer, skip_implicit) not in self._images:
            chain.append(layer)
            layer = _next_layer(layer, skip_implicit=skip_implicit)
        lower = None if layer is None else self._images[layer, skip_implicit]
        for each in reversed(chain):
            info = self._own_image(each)
            if lower is None:
                lower = info, 0
            else:
                info["backing-image"] = lower[0]
                lower = info, lower[1] + 1
            self._images[each, skip_implicit] = lower
        assert lower is not None
        return lower

    def _own_image(self, node: BlockNode) -> Info:
        """Return ImageInfo of one image, without the layers below it."""
        return _own_info(node, self._names.name(node)) | {"limits": self._limits.of(node)}

    def device_info(
        self, node: BlockNode, backend: BlockBackend | None = None, *, flat: bool = False
    ) -> Steps[Info]:
        """Return BlockDeviceInfo of a node, or of a backend's medium.

        Members of lower layers are in it unless ``flat``; ``backing_file_depth`` counts these.
        """
        if flat:
            image, depth = self._own_image(node), 0
        else:
            image, depth = self._image(node, skip_implicit=backend is not None)
        group = backend.throttle.group if backend is not None and backend.throttle else None
        info: Info = {
            "file": self._names.name(node),
            "node-name": node.node_name,
            "ro": node.read_only,
            "drv": node.driver.format_name,
            **({"backing_file": self._names.name(node.backing)} if node.backing else {}),
            "encrypted": False,
            "detect_zeroes": node.detect_zeroes,
            "write_threshold": _write_threshold(node),
            "backing_file_depth": depth,
            "cache": {
                "writeback": backend.write_cache if backend is not None else True,
                "direct": node.cache["direct"],
                "no-flush": node.cache["no-flush"],
            },
            "image": image,
            "active": not node.inactive,
            "children": [
                {"child": name, "node-name": child.node.node_name}
                for name, child in node.children.items()
            ],
            **device_members(group.limits if group else ThrottleLimits()),
        }
        if group is not None:
            info["group"] = group.name
        bitmaps = yield from described_bitmaps(node)
        if bitmaps:
            info["dirty-bitmaps"] = bitmaps
        return info

    def block_info(self, backend: BlockBackend, *, flat: bool = False) -> Steps[Info]:
        """Return BlockInfo."""
        info: Info = {
            "device": backend.name,
            "type": "unknown",
            "removable": backend.removable or not backend.qdev_path,
            "locked": backend.locked,
        }
        if backend.qdev_path:
            info["qdev"] = backend.qdev_path
        if backend.has_tray:
            info["tray_open"] = backend.tray_open
        if backend.reports_io_status:
            info["io-status"] = backend.io_status
        node = backend.node
        if node is not None:
            node = skip_implicit_filters(node)
            info["inserted"] = yield from self.device_info(node, backend, flat=flat)
        return info


def stats(node: BlockNode | None, *, backing: bool = True) -> Info:
    """Return BlockStats of a node, or of an empty device.

    Those of its file, or of the only child that holds its data, are in it. With ``backing``, so are
    those of the nodes below it in its chain, as a device reports them: without the filters that
    jobs have put in. Requests are counted by devices; of a node only the farthest write is known.
    """
    info: Info = {
        "stats": {
            **dict.fromkeys(COUNTERS, 0),
            "wr_highest_offset": 0,
            "account_invalid": False,
            "account_failed": False,
            "timed_stats": [],
        },
    }
    if node is None:
        return info
    if backing:
        node = skip_implicit_filters(node)
    info["node-name"] = node.node_name
    info["stats"]["wr_highest_offset"] = node.highest_write
    if node.driver.specific_stats is not None:
        info["driver-specific"] = {"driver": node.driver.format_name, **node.driver.specific_stats}
    holder = _data_holder(node)
    if holder is not None:
        info["parent"] = stats(holder, backing=backing)
    below = next_layer(node)
    if backing and below is not None:
        info["backing"] = stats(below)
    return info


def _data_holder(node: BlockNode) -> BlockNode | None:
    """Return the primary child if it holds data, or else the only child that does."""
    primary = node.child_in_role(ChildRole.PRIMARY)
    if primary is not None and primary.role & (ChildRole.DATA | ChildRole.FILTERED):
        return primary.node
    holders = [edge.node for edge in node.children.values() if edge.role & ChildRole.DATA]
    return holders[0] if len(holders) == 1 else None
