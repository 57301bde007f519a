"""Commands on the snapshots that images keep of themselves, one or all of them at once.

``blockdev-snapshot-internal-sync`` is an action (``actions/internal_snapshot.py``).

QEMU's counterpart: ``qmp_blockdev_snapshot_delete_internal_sync`` in ``blockdev.c``;
``qmp_snapshot_*`` in ``migration/savevm.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from blkxact.block.blockers import BlockOp
from blkxact.block.chain import snapshots_of
from blkxact.block.drain import drained
from blkxact.block.internal_snapshots import describe_snapshot, find_snapshot
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError, strerror
from blkxact.machine import vm_snapshots
from blkxact.machine.vm_snapshots import DeleteJob, LoadJob, SaveJob, SnapshotJob
from blkxact.qapi.block_core import BlockdevSnapshotDeleteInternalSync
from blkxact.qapi.migration import SnapshotDelete, SnapshotSave

from .command import Command


async def delete_internal(
    layer: BlockLayer, args: BlockdevSnapshotDeleteInternalSync
) -> dict[str, Any]:
    """blockdev-snapshot-delete-internal-sync; returns the snapshot that was deleted."""
    node = layer.find_root(args.device)
    if args.id is None and args.name is None:
        raise QmpError("Name or id must be provided")
    node.check_operation(BlockOp.INTERNAL_SNAPSHOT_DELETE)
    snapshots = snapshots_of(node)
    if snapshots is None:
        raise QmpError("Failed to get a snapshot list: Operation not supported")
    found = find_snapshot(snapshots, snapshot_id=args.id, name=args.name)
    if found is None:
        raise QmpError(
            f"Snapshot with id '{_or_null(args.id)}' and name '{_or_null(args.name)}' does not "
            f"exist on device '{args.device}'"
        )
    described = describe_snapshot(found)
    try:
        async with drained([node]):
            await snapshots.delete(found)
    except OSError as error:
        raise QmpError(
            f"Failed to remove snapshot from snapshot list: {strerror(error)}"
        ) from error
    return described


def snapshot_save(layer: BlockLayer, args: SnapshotSave) -> None:
    """snapshot-save: a job."""
    save = partial(vm_snapshots.save, layer, args.tag, devices=args.devices, vmstate=args.vmstate)
    _start(layer, SaveJob, args.job_id, save)


def snapshot_load(layer: BlockLayer, args: SnapshotSave) -> None:
    """snapshot-load: a job."""
    load = partial(vm_snapshots.load, layer, args.tag, devices=args.devices, vmstate=args.vmstate)
    _start(layer, LoadJob, args.job_id, load)


def snapshot_delete(layer: BlockLayer, args: SnapshotDelete) -> None:
    """snapshot-delete: a job."""
    work = partial(vm_snapshots.delete, layer, args.tag, devices=args.devices)
    _start(layer, DeleteJob, args.job_id, work)


def _start(
    layer: BlockLayer, kind: type[SnapshotJob], job_id: str, work: Callable[[], Awaitable[None]]
) -> None:
    kind(layer, layer.check_job_id(job_id), layer.own_transaction(), work).start()


def _or_null(text: str | None) -> str:
    return "null" if text is None else text


COMMANDS: Final = [
    Command(
        "blockdev-snapshot-delete-internal-sync",
        delete_internal,
        BlockdevSnapshotDeleteInternalSync,
    ),
    Command("snapshot-delete", snapshot_delete, SnapshotDelete, system=True),
    Command("snapshot-load", snapshot_load, SnapshotSave, system=True),
    Command("snapshot-save", snapshot_save, SnapshotSave, system=True),
]
