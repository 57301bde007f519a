"""Internal snapshots of one image, with QEMU's refusals.

QEMU's counterpart: ``img_snapshot`` in ``qemu-img.c``, ``block/snapshot.c``.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from blkxact.block.internal_snapshots import (
    InternalSnapshots,
    describe_snapshot,
    find_by_id_or_name,
    find_snapshot,
)
from blkxact.block.node import BlockNode
from blkxact.errors import QmpError, os_error, strerror


def list_snapshots(node: BlockNode) -> list[dict[str, Any]]:
    """Return SnapshotInfo of each; nothing for a format that has none."""
    snapshots = node.driver.internal_snapshots
    return [] if snapshots is None else [describe_snapshot(entry) for entry in snapshots.entries]


async def create_snapshot(node: BlockNode, name: str, *, date_us: int) -> None:
    """Keep what the disk holds now, dated in microseconds since 1970; raises ``OSError``."""
    snapshots = node.driver.internal_snapshots
    if snapshots is None:
        raise os_error(errno.ENOTSUP)
    await snapshots.create(name, date_us=date_us, icount=0)


async def apply_snapshot(node: BlockNode, name: str) -> None:
    """Make the disk what it was at a snapshot of that id or name; raises ``QmpError``."""
    snapshots = _supported(node)
    if node.bitmaps:
        raise QmpError("Device has active dirty bitmaps")
    snapshot = find_by_id_or_name(snapshots, name)
    if snapshot is None:
        raise QmpError(f"Failed to load snapshot: {os.strerror(errno.ENOENT)}")
    try:
        await snapshots.apply(snapshot)
    except OSError as error:
        raise QmpError(f"Failed to load snapshot: {strerror(error)}") from error


async def delete_snapshot(node: BlockNode, name: str) -> None:
    """Forget the first snapshot of that name; raises ``QmpError``."""
    snapshots = node.driver.internal_snapshots
    snapshot = None if snapshots is None else find_snapshot(snapshots, name=name)
    if snapshots is None or snapshot is None:
        raise QmpError("snapshot not found")
    try:
        await snapshots.delete(snapshot)
    except OSError as error:
        raise QmpError(
            f"Failed to remove snapshot from snapshot list: {strerror(error)}"
        ) from error


async def look_at_snapshot(
    node: BlockNode,
    *,
    snapshot_id: str | None = None,
    name: str | None = None,
    text: str | None = None,
) -> None:
    """Show a read-only image as it was at a snapshot, found by id and name or by either.

    Raises ``QmpError``.
    """
    snapshots = node.driver.internal_snapshots
    if snapshots is None:
        raise QmpError(
            f"Block format '{node.driver.format_name}' used by device '' does not support "
            "temporarily loading internal snapshots"
        )
    if text is None:
        snapshot = find_snapshot(snapshots, snapshot_id=snapshot_id, name=name)
    else:
        snapshot = find_by_id_or_name(snapshots, text)
    if snapshot is None:
        raise QmpError("Can't find snapshot")
    try:
        await snapshots.look_at(snapshot)
    except OSError as error:
        raise QmpError("Failed to read l1 table for snapshot") from error


def _supported(node: BlockNode) -> InternalSnapshots:
    if node.driver.internal_snapshots is None:
        raise QmpError("Block driver does not support snapshots")
    return node.driver.internal_snapshots
