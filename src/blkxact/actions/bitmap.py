"""Actions on dirty bitmaps.

Each does its work in ``prepare``, so that later actions of the same transaction see it, and knows
how to take it back. A removed bitmap is removed from the image only in ``commit``.

QEMU's counterpart: ``blockdev.c`` (block_dirty_bitmap_*_prepare and so on),
``block/monitor/bitmap-qmp-cmds.c``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from blkxact.bitmap import MAX_NAME_SIZE, MIN_GRANULARITY, BitmapCheck, DirtyBitmap, Saved
from blkxact.block.node import BlockNode
from blkxact.dirty.granules import default_granularity
from blkxact.errors import QmpError
from blkxact.qapi.block_core import BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge
from blkxact.runtime.steps import in_turns

from .base import BlockAction


class _BitmapAction(BlockAction):
    """An action on the bitmap ``name`` of ``node``."""

    node: BlockNode
    bitmap: DirtyBitmap

    def nodes(self) -> Iterable[BlockNode]:
        """Return the bitmap's node."""
        return self.find_or_none(self.args.node)

    def find(self, check: BitmapCheck) -> DirtyBitmap:
        """Return the bitmap; raise ``QmpError`` unless it may be used so."""
        self.check_completion_mode()
        # Later the name of a device may mean another node: a filter's or a snapshot's.
        self.node, bitmap = self.layer.find_bitmap(self.args.node, self.args.name)
        bitmap.check(check)
        return bitmap


class BitmapAdd(_BitmapAction):
    """``block-dirty-bitmap-add`` (BlockDirtyBitmapAdd)."""

    kind = "block-dirty-bitmap-add"
    model = BlockDirtyBitmapAdd

    _node: BlockNode | None = None

    async def prepare(self) -> None:
        """Create the bitmap."""
        self.check_completion_mode()
        args = self.args
        if not args.name:
            raise QmpError("Bitmap name cannot be empty")
        node = self.layer.find_node(args.node)
        granularity = args.granularity
        if granularity is None:
            granularity = default_granularity(node.driver.cluster_size)
        elif granularity < MIN_GRANULARITY or granularity & (granularity - 1):
            raise QmpError("Granularity must be power of 2 and at least 512")
        if args.persistent:
            await check_can_store(node, args.name, granularity)
        if args.name in node.bitmaps:
            raise QmpError(f"Bitmap already exists: {args.name}")
        if len(os.fsencode(args.name)) > MAX_NAME_SIZE:
            raise QmpError(f"Bitmap name too long: {args.name}")
        bitmap = DirtyBitmap(node.length, granularity, args.name)
        bitmap.enabled = not args.disabled
        bitmap.persistent = bool(args.persistent)
        bitmap.enlist(node.bitmap_serials)
        node.bitmaps[args.name] = bitmap
        self._node = node

    def abort(self) -> None:
        """Remove it again."""
        if self._node is not None:
            del self._node.bitmaps[self.args.name]


class BitmapRemove(_BitmapAction):
    """``block-dirty-bitmap-remove``.

    A bitmap that is being removed is busy, so no later action of the transaction can use it.
    """

    kind = "block-dirty-bitmap-remove"
    model = BlockDirtyBitmap

    async def prepare(self) -> None:
        """Take the bitmap out of use."""
        bitmap = self.find(BitmapCheck.BUSY | BitmapCheck.READ_ONLY)
        bitmap.skip_store = True
        bitmap.busy = True
        self.bitmap = bitmap

    def abort(self) -> None:
        """Make it available again."""
        if hasattr(self, "bitmap"):
            self.bitmap.skip_store = False
            self.bitmap.busy = False

    def commit(self) -> None:
        """Forget it."""
        del self.node.bitmaps[self.args.name]

    async def finish(self, *, committed: bool) -> None:
        """Remove it from the image."""
        if committed and self.bitmap.persistent:
            await self.node.driver.remove_persistent_bitmap(self.args.name)


class BitmapClear(_BitmapAction):
    """``block-dirty-bitmap-clear``."""

    kind = "block-dirty-bitmap-clear"
    model = BlockDirtyBitmap
    _saved: Saved | None = None

    async def prepare(self) -> None:
        """Clear the bitmap, keeping what was set."""
        self.bitmap = self.find(BitmapCheck.DEFAULT)
        self._saved = self.bitmap.clear()

    def abort(self) -> None:
        """Set it again."""
        if self._saved is not None:
            self.bitmap.restore(self._saved)


class _BitmapSwitch(_BitmapAction):
    """Turns recording on or off."""

    turn_on: bool
    _was_on: bool | None = None

    async def prepare(self) -> None:
        """Turn recording on or off."""
        self.bitmap = self.find(BitmapCheck.ALLOW_READ_ONLY)
        self._was_on = self.bitmap.enabled
        self.bitmap.enabled = self.turn_on

    def abort(self) -> None:
        """Undo that."""
        if self._was_on is not None:
            self.bitmap.enabled = self._was_on


class BitmapEnable(_BitmapSwitch):
    """``block-dirty-bitmap-enable``."""

    kind = "block-dirty-bitmap-enable"
    model = BlockDirtyBitmap
    turn_on = True


class BitmapDisable(_BitmapSwitch):
    """``block-dirty-bitmap-disable``."""

    kind = "block-dirty-bitmap-disable"
    model = BlockDirtyBitmap
    turn_on = False


class BitmapMerge(BlockAction):
    """``block-dirty-bitmap-merge`` (BlockDirtyBitmapMerge)."""

    kind = "block-dirty-bitmap-merge"
    model = BlockDirtyBitmapMerge
    _target: DirtyBitmap
    _saved: Saved | None = None

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes of the target and of all sources."""
        others = (None if isinstance(source, str) else source.node for source in self.args.bitmaps)
        return self.find_or_none(self.args.node, *others)

    async def prepare(self) -> None:
        """Merge the sources one by one, keeping what was set before."""
        self.check_completion_mode()
        node, self._target = self.layer.find_bitmap(self.args.node, self.args.target)
        for name in self.args.bitmaps:
            source = self._find_source(node, name)
            if self._saved is None:
                self._target.check()
                self._saved = self._target.save()
            # Nothing changes meanwhile: both guests are held, and no other command runs.
            await in_turns(self._target.merge_steps(source))

    def _find_source(self, node: BlockNode, source: object) -> DirtyBitmap:
        if not isinstance(source, str):
            return self.layer.find_bitmap(source.node, source.name)[1]  # type: ignore[attr-defined]
        bitmap = node.bitmaps.get(source)
        if bitmap is None:
            raise QmpError(f"Dirty bitmap '{source}' not found")
        return bitmap

    def abort(self) -> None:
        """Take the merged bits out again."""
        if self._saved is not None:
            self._target.restore(self._saved)


async def check_can_store(node: BlockNode, name: str, granularity: int) -> None:
    """Raise ``QmpError`` unless the node's image can keep such a bitmap."""
    can_store = getattr(node.driver, "can_store_bitmap", None)
    if can_store is None:
        raise QmpError(
            f"Can't store persistent bitmaps to {node.node_name}: Operation not supported"
        )
    await can_store(name, granularity)
