"""The action that takes an internal snapshot.

Unlike other actions it writes to the image when it is prepared; if the transaction fails the
snapshot is deleted again, before the requests on the disk go on.

QEMU's counterpart: internal_snapshot_prepare() and so on in ``blockdev.c``.
"""

from __future__ import annotations

from collections.abc import Iterable

from blkxact.block.blockers import BlockOp
from blkxact.block.chain import can_snapshot, snapshots_of
from blkxact.block.internal_snapshots import InternalSnapshot, InternalSnapshots, find_snapshot
from blkxact.block.node import BlockNode
from blkxact.errors import QmpError, strerror
from blkxact.qapi.block_core import BlockdevSnapshotInternal

from .base import BlockAction


class BlockdevSnapshotInternalAction(BlockAction):
    """``blockdev-snapshot-internal-sync`` (BlockdevSnapshotInternal)."""

    kind = "blockdev-snapshot-internal-sync"
    model = BlockdevSnapshotInternal
    args: BlockdevSnapshotInternal
    _taken: tuple[InternalSnapshots, InternalSnapshot] | None = None

    def nodes(self) -> Iterable[BlockNode]:
        """Return the node whose image keeps the snapshot."""
        return self.find_or_none(self.args.device)

    async def prepare(self) -> None:
        """Take the snapshot."""
        self.check_completion_mode()
        device, name = self.args.device, self.args.name
        node = self.layer.find_root(device)
        node.check_operation(BlockOp.INTERNAL_SNAPSHOT)
        if node.read_only:
            raise QmpError(f"Device '{device}' is read only")
        snapshots = snapshots_of(node)
        if snapshots is None or not can_snapshot(node):
            raise QmpError(
                f"Block format '{node.driver.format_name}' used by device '{device}' "
                "does not support internal snapshots"
            )
        if not name:
            raise QmpError("Name is empty")
        if find_snapshot(snapshots, name=name) is not None:
            raise QmpError(f"Snapshot with name '{name}' already exists on device '{device}'")
        try:
            await node.flush()
            taken = await snapshots.create(name, date_us=self.layer.clock.realtime_us())
        except OSError as error:
            raise QmpError(
                f"Failed to create snapshot '{name}' on device '{device}': {strerror(error)}"
            ) from error
        self._taken = snapshots, taken

    async def finish(self, *, committed: bool) -> None:
        """Delete it again if the transaction failed."""
        if self._taken is not None and not committed:
            snapshots, taken = self._taken
            await snapshots.delete(taken)
