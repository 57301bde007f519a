"""Commands on the snapshots that an image keeps of itself.

``blockdev-snapshot-internal-sync`` is an action (``actions/internal_snapshot.py``).

QEMU's counterpart: ``qmp_blockdev_snapshot_delete_internal_sync`` in ``blockdev.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.block.internal_snapshots import describe_snapshot, find_snapshot
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError, strerror
from blkxact.qapi.block_core import BlockdevSnapshotDeleteInternalSync

from .command import Command


async def delete_internal(
    layer: BlockLayer, args: BlockdevSnapshotDeleteInternalSync
) -> dict[str, Any]:
    """blockdev-snapshot-delete-internal-sync; returns the snapshot that was deleted."""
    node = layer.find_root(args.device)
    if args.id is None and args.name is None:
        raise QmpError("Name or id must be provided")
    node.check_operation(BlockOp.INTERNAL_SNAPSHOT_DELETE)
    snapshots = node.driver.internal_snapshots
    if snapshots is None:
        raise QmpError("Failed to get a snapshot list: Operation not supported")
    found = find_snapshot(snapshots, snapshot_id=args.id, name=args.name)
    if found is None:
        raise QmpError(
            f"Snapshot with id '{_or_null(args.id)}' and name '{_or_null(args.name)}' does not "
            f"exist on device '{args.device}'"
        )
    told = describe_snapshot(found)
    try:
        async with drained([node]):
            await snapshots.delete(found)
    except OSError as error:
        raise QmpError(
            f"Failed to remove snapshot from snapshot list: {strerror(error)}"
        ) from error
    return told


def _or_null(text: str | None) -> str:
    return "null" if text is None else text


COMMANDS: Final = [
    Command(
        "blockdev-snapshot-delete-internal-sync",
        delete_internal,
        BlockdevSnapshotDeleteInternalSync,
    ),
]
