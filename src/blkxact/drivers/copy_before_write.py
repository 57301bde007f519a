"""copy-before-write: a filter that keeps a point in time of the node below it.

Before a guest changes anything, what was there is copied to the target. Reads pass.

Invariants:

* A guest's change goes on only when all it touches was copied or need not be. If the copy fails,
  either the guest's request fails (break-guest-write) or the point in time is given up
  (break-snapshot), for good.
* Whoever reads the point in time from the disk, through ``snapshot-access`` or through a target
  that has the disk as backing file (fleecing), has read it before the guest's change goes on.
* ``block_copy`` is shared with the backup job, so nothing is copied twice.
* A copy that outlives ``cbw-timeout`` continues in the background; ``close`` waits for it.

QEMU's counterpart: ``block/copy-before-write.c``; ``qapi/block-core.json``
(BlockdevOptionsCbw, OnCbwError).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from blkxact.bitmap import DirtyBitmap
from blkxact.block.block_copy import BlockCopy, target_cluster_size
from blkxact.block.copy_plan import round_down, round_up
from blkxact.block.open_context import OpenContext
from blkxact.block.point_in_time import PointInTime
from blkxact.block.range_lock import RangeLock
from blkxact.block.types import ChildRole, Permission, WriteFlags
from blkxact.enums import OnCbwError
from blkxact.errors import QmpError, os_error
from blkxact.qapi.limits import INT64_MAX
from blkxact.qapi.versions import CBW_ALWAYS_READS, COPY_BITMAP_ON_FILTER, behaves
from blkxact.runtime.steps import in_turns
from blkxact.storage.api import Payload

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.block.node import BlockNode
    from blkxact.qapi.blockdev import BlockdevOptionsCbw


_OF_TARGET = (Permission.WRITE, Permission.ALL & ~Permission.RESIZE)
"""Writes are shared: the guest's disk may be the target's backing file (fleecing)."""


class CopyBeforeWriteDriver(FilterDriver):
    """The driver ``copy-before-write`` over ``file``, copying to ``target``.

    A backup job constructs it with a ``block_copy`` of its own; ``open`` makes one for clients.
    ``timeout`` is in seconds, 0 for none. ``for_access``: ``snapshot-access`` may read the point
    in time; not where the filter does not keep all of it.
    """

    format_name = "copy-before-write"
    passes_flushes_on = True

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        block_copy: BlockCopy,
        *,
        on_cbw_error: OnCbwError = OnCbwError.BREAK_GUEST_WRITE,
        timeout: float = 0,
        for_access: bool = True,
    ) -> None:
        super().__init__(context, children)
        self.block_copy = block_copy
        self.on_cbw_error = on_cbw_error
        self.timeout = timeout
        block_copy.copy_bitmap.enabled = False  # marked by hand, and queries report it as disabled
        self._fleecing = _track_readers(block_copy)
        self.point = PointInTime(block_copy, partial=not for_access)
        self.point_in_time = self.point if for_access else None
        self._outlived: set[asyncio.Task[None]] = set()
        self._always_reads = behaves(CBW_ALWAYS_READS, context.env.release)
        self.node.shown_bitmaps += (self.point.access_bitmap, self.point.done_bitmap)
        if behaves(COPY_BITMAP_ON_FILTER, context.env.release):
            self._shown_at = self.node
        else:
            self._shown_at = self.file.node  # a snapshot may put another node below the filter
            block_copy.copy_bitmap.enlist(self._shown_at.bitmap_serials)
        self._shown_at.shown_bitmaps.append(block_copy.copy_bitmap)

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the filtered ``file`` and the ``target`` of the copies."""
        del options
        return {"file": ChildRole.FILTERED | ChildRole.PRIMARY, "target": ChildRole.DATA}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsCbw, children: Mapping[str, Child]
    ) -> CopyBeforeWriteDriver:
        """Open; raises ``QmpError``."""
        bitmap = None
        if options.bitmap is not None:
            place = options.bitmap
            _, bitmap = context.env.graph.find_bitmap(place.node, place.name)
        block_copy = await make_block_copy(
            children["file"],
            children["target"],
            bitmap,
            min_cluster_size=options.min_cluster_size,
        )
        return cls(
            context,
            children,
            block_copy,
            on_cbw_error=options.on_cbw_error,
            timeout=options.cbw_timeout,
        )

    async def close(self) -> None:
        """Wait for copies that guests no longer wait for."""
        if self._outlived:
            await asyncio.wait(self._outlived)
        self._shown_at.shown_bitmaps.remove(self.block_copy.copy_bitmap)

    @property
    def node(self) -> BlockNode:
        """The filter's own node."""
        return cast("BlockNode", self.file.parent)

    @classmethod
    def permissions_to_open(cls, role: ChildRole) -> tuple[Permission, Permission] | None:
        """Return those of the target."""
        return None if role & ChildRole.FILTERED else _OF_TARGET

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return the masks; nobody may write past the filter once it has a parent."""
        if not role & ChildRole.FILTERED:
            return _OF_TARGET
        in_use = bool(self.node.parents)
        perm, shared = super().child_permissions(child, role, perm, shared)
        if in_use:
            if perm & Permission.WRITE or self._always_reads:
                perm |= Permission.CONSISTENT_READ
            if self.block_copy.discard_source:
                perm |= Permission.WRITE
            shared &= ~(Permission.WRITE | Permission.RESIZE)
        return perm, shared

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Copy, then write."""
        await self._before_write(offset, len(payload), flags)
        await super().pwrite(offset, payload, flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Copy, then write zeroes."""
        await self._before_write(offset, length, flags)
        await super().pwrite_zeroes(offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Copy, then discard."""
        await self._before_write(offset, length, WriteFlags.NONE)
        await super().pdiscard(offset, length)

    async def _before_write(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Return when the guest may change the range; raises ``OSError`` when it must not."""
        if flags & WriteFlags.UNCHANGED or self.point.error is not None or not length:
            return
        try:
            await self._copy(offset, length)
        except OSError as error:
            if self.on_cbw_error is OnCbwError.BREAK_GUEST_WRITE:
                raise os_error(error.errno or errno.EIO) from error  # without a side
            self.point.break_off(error)
            return
        await self.point.note_kept(offset, length)
        if self._fleecing is not None:
            unit = self.block_copy.cluster_size
            await self._fleecing.pass_by(round_down(offset, unit), round_up(offset + length, unit))

    async def _copy(self, offset: int, length: int) -> None:
        if not self.timeout:
            await self.block_copy.copy_before_write(offset, length)
            return
        copying = asyncio.create_task(self.block_copy.copy_before_write(offset, length))
        alarm = asyncio.create_task(self.context.env.clock.sleep(self.timeout))
        try:
            await asyncio.wait({copying, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            if not copying.done():
                self._let_go_on(copying)
        if not copying.done():
            raise os_error(errno.ETIMEDOUT)
        copying.result()

    def _let_go_on(self, copying: asyncio.Task[None]) -> None:
        # Counted, so that a drain waits for it.
        self.node.begin_request()
        self._outlived.add(copying)
        copying.add_done_callback(self._forget)

    def _forget(self, copying: asyncio.Task[None]) -> None:
        self.node.end_request()
        self._outlived.discard(copying)
        if not copying.cancelled():
            copying.exception()


def _track_readers(block_copy: BlockCopy) -> RangeLock | None:
    """Return what knows the readers of a target whose backing file is the source, if it is."""
    target = block_copy.target.node
    layer: BlockNode | None = target
    while layer is not None:
        if layer is block_copy.source.node:
            target.track_reads()
            return target.reads
        layer = layer.below
    return None


async def make_block_copy(
    source: Child,
    target: Child,
    bitmap: DirtyBitmap | None = None,
    *,
    min_cluster_size: int = 0,
    **how: Any,
) -> BlockCopy:
    """Return a ``BlockCopy`` of what a client's ``bitmap`` has set (None: of everything).

    ``min_cluster_size`` is the least unit of copying in bytes; ``how`` is passed on to
    ``BlockCopy``. Raises ``QmpError`` when bitmap or unit do not fit.
    """
    copy_bitmap = _copy_bitmap(source, target, min_cluster_size)
    if bitmap is None:
        copy_bitmap.mark(0, source.length)
    else:
        try:
            await in_turns(copy_bitmap.merge_steps(bitmap))
        except QmpError as error:
            raise QmpError(
                "Cannot create block-copy-state: Failed to merge bitmap "
                f"'{bitmap.name}' to internal copy-bitmap: {error.desc}"
            ) from error
    return _block_copy(source, target, copy_bitmap, how)


async def make_claimed_copy(
    source: Child, target: Child, bitmap: DirtyBitmap, *, min_cluster_size: int = 0, **how: Any
) -> BlockCopy:
    """Return a ``BlockCopy`` of what a ``bitmap`` has set that is frozen for it."""
    copy_bitmap = _copy_bitmap(source, target, min_cluster_size)
    await in_turns(copy_bitmap.absorb_steps(bitmap))
    return _block_copy(source, target, copy_bitmap, how)


def check_min_cluster_size(size: int, prefix: str = "") -> None:
    """Raise ``QmpError`` if it is larger than any disk."""
    if size > INT64_MAX:
        raise QmpError(f"{prefix}min-cluster-size too large: {size} > {INT64_MAX}")


def _copy_bitmap(source: Child, target: Child, min_cluster_size: int) -> DirtyBitmap:
    prefix = "Cannot create block-copy-state: "
    check_min_cluster_size(min_cluster_size, prefix)
    if min_cluster_size & (min_cluster_size - 1):
        raise QmpError(f"{prefix}min-cluster-size needs to be a power of 2")
    unit = max(target_cluster_size(target.node), min_cluster_size)
    return DirtyBitmap(source.length, unit)


def _block_copy(
    source: Child, target: Child, copy_bitmap: DirtyBitmap, how: Mapping[str, Any]
) -> BlockCopy:
    return BlockCopy(
        source, target, copy_bitmap=copy_bitmap, cluster_size=copy_bitmap.granularity, **how
    )
