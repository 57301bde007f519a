"""The actions that add an overlay to a node.

QEMU's counterpart: ``blockdev.c`` (external_snapshot_prepare and so on).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from blkxact.block.blockers import BlockOp
from blkxact.block.node import BlockNode
from blkxact.block.permissions import cumulative_permissions
from blkxact.block.types import Permission
from blkxact.blockdev.activity import inactivate
from blkxact.blockdev.image_create import create_image
from blkxact.enums import NewImageMode
from blkxact.errors import QmpError
from blkxact.qapi.block_core import BlockdevSnapshot, BlockdevSnapshotSync
from blkxact.transaction import FinishStage

from .base import BlockAction


class _SnapshotAction(BlockAction):
    """Common to both: an overlay replaces a node for all its parents."""

    _below: BlockNode | None = None
    _overlay: BlockNode | None = None
    _appended = False

    finish_stage = FinishStage.REOPEN

    @abstractmethod
    def find_below(self) -> BlockNode:
        """Return the node that becomes the backing file."""

    @abstractmethod
    async def open_overlay(self, below: BlockNode) -> BlockNode:
        """Return the overlay, with a reference for the transaction."""

    async def prepare(self) -> None:
        """Flush the node and put the overlay on it."""
        self.check_completion_mode()
        below = self.find_below()
        self._below = below
        below.check_operation(BlockOp.EXTERNAL_SNAPSHOT)
        if not below.read_only:
            try:
                await below.flush()
            except OSError:
                raise QmpError("An IO error has occurred") from None
        overlay = await self.open_overlay(below)
        self._overlay = overlay
        check_overlay(overlay)
        graph = self.layer.graph
        if below.inactive:  # a machine that has been migrated into a file gets its overlays then
            await inactivate(graph, [overlay])
        graph.ref(below)
        try:
            graph.insert_filter(below, overlay)
        except QmpError:
            graph.unref(below)
            raise
        self._appended = True

    def abort(self) -> None:
        """Take the overlay off again."""
        if self._appended:
            assert self._overlay is not None
            self.layer.graph.remove_filter(self._overlay)

    async def finish(self, *, committed: bool) -> None:
        """Leave the node read-only to its overlay, unless it has ``copy-on-read``."""
        if committed:
            assert self._below is not None
            if self._below.copy_on_read is not None:
                return  # it goes on copying what is read through the overlay
            await self.layer.blockdev.set_read_only(self._below, read_only=True)

    def clean(self) -> None:
        """Let go of both nodes; the graph keeps what it needs."""
        graph = self.layer.graph
        if self._appended:
            assert self._below is not None
            graph.unref(self._below)
        if self._overlay is not None:
            graph.unref(self._overlay)


class BlockdevSnapshotAction(_SnapshotAction):
    """``blockdev-snapshot`` (BlockdevSnapshot)."""

    kind = "blockdev-snapshot"
    model = BlockdevSnapshot
    args: BlockdevSnapshot

    def nodes(self) -> Iterable[BlockNode]:
        """Return the node and its overlay."""
        return self.find_or_none(self.args.node, self.args.overlay)

    def find_below(self) -> BlockNode:
        """Return the node by device or node name."""
        return self.layer.find_node(self.args.node)

    async def open_overlay(self, below: BlockNode) -> BlockNode:
        """Find the overlay."""
        del below
        return self.layer.graph.ref(self.layer.find_node(self.args.overlay))


class BlockdevSnapshotSyncAction(_SnapshotAction):
    """``blockdev-snapshot-sync`` (BlockdevSnapshotSync): creates the overlay unless it exists."""

    kind = "blockdev-snapshot-sync"
    model = BlockdevSnapshotSync
    args: BlockdevSnapshotSync

    def nodes(self) -> Iterable[BlockNode]:
        """Return the node."""
        return self.find_or_none(self.args.device, self.args.node_name)

    def find_below(self) -> BlockNode:
        """Return the node by device, or by node name."""
        return self.layer.lookup(self.args.device, self.args.node_name)

    async def open_overlay(self, below: BlockNode) -> BlockNode:
        """Create and open the overlay, without a backing file yet."""
        args = self.args
        name = args.snapshot_node_name
        if args.node_name is not None and name is None:
            raise QmpError("New overlay node-name missing")
        if name is not None and self.is_taken(name):
            raise QmpError("New overlay node-name already in use")
        if args.mode is not NewImageMode.EXISTING:
            await create_image(
                self.layer.blockdev,
                args.snapshot_file,
                args.format,
                size=below.length,
                backing=below,
                report=self.layer.guest.print,
            )
        options: dict[str, Any] = {} if name is None else {"node-name": name}
        overlay = await self.layer.blockdev.open_image(
            args.snapshot_file,
            options,
            args.format,
            inherited=below.common.flags(read_only=below.read_only),
            backing=False,
        )
        return self.layer.graph.ref(overlay)

    def is_taken(self, name: str) -> bool:
        """Return whether a device or a node has the name."""
        graph = self.layer.graph
        return name in graph.nodes or name in graph.backends


def check_overlay(overlay: BlockNode) -> None:
    """Raise ``QmpError`` unless the node can become an overlay."""
    perm, _ = cumulative_permissions(overlay)
    if perm & Permission.CONSISTENT_READ:
        raise QmpError("The overlay is already in use")
    if overlay.driver.is_filter:
        raise QmpError("Filters cannot be used as overlays")
    if overlay.backing is not None:
        raise QmpError("The overlay already has a backing image")
    if not overlay.driver.supports_backing:
        raise QmpError("The overlay does not support backing images")
