"""A point in time of a disk that keeps changing, and how it is read.

A copy-before-write filter keeps one. What a guest has overwritten is read from the target, where
the filter has copied it; all else still from the disk.

Invariants:

* A reader never gets wrong bytes. While it reads from the disk no guest changes the range: the
  guest's write waits, in ``note_kept``. What may not be read any more when a read ends has failed.
* Once broken it stays broken: every read fails, those that are under way too.
* What was discarded is not copied any more and cannot be read again.

QEMU's counterpart: the snapshot API of ``block/copy-before-write.c``. There a read that is under
way when the snapshot breaks may return what the guest has written meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from blkxact.bitmap import DirtyBitmap
from blkxact.errors import os_error
from blkxact.storage.api import Buffer

from .block_copy import BlockCopy
from .copy_plan import round_down, round_up
from .range_lock import RangeLock
from .status import merge_extents
from .types import Extent

if TYPE_CHECKING:
    from .child import Child


class PointInTime:
    """What ``block_copy`` keeps of its source. Bitmaps have its unit.

    ``partial``: it keeps less than is shown as accessible (the filter of some backups), so nobody
    may read it.
    """

    def __init__(self, block_copy: BlockCopy, *, partial: bool = False) -> None:
        self._copy = block_copy
        self._unit = block_copy.cluster_size
        self.error: OSError | None = None
        """Why it is broken."""
        self.access_bitmap = block_copy.copy_bitmap.copy()
        """What may be read."""
        if partial:
            self.access_bitmap.mark(0, block_copy.length)
        self.done_bitmap = DirtyBitmap(block_copy.length, self._unit)
        """What is read from the target."""
        for bitmap in (self.access_bitmap, self.done_bitmap):
            bitmap.enabled = False  # they are marked by hand, and queries report it as disabled
        self._reads = RangeLock()
        """Ranges that are being read from the disk."""

    # The guest's side

    def break_off(self, error: OSError) -> None:
        """Give up: something could not be kept."""
        if self.error is None:
            self.error = error

    async def note_kept(self, offset: int, length: int) -> None:
        """Note that all of a range is in the target; return when nobody reads it elsewhere."""
        start = round_down(offset, self._unit)
        end = round_up(offset + length, self._unit)
        self.done_bitmap.mark(start, end - start)
        await self._reads.pass_by(start, end)

    # The readers' side

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes; ``OSError(EACCES)`` where not all may be read."""
        parts: list[Buffer] = []
        cursor, end = offset, offset + length
        while cursor < end:
            async with self._place(cursor, end) as (child, size):
                parts.append(await child.pread(cursor, size))
            cursor += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of a range; ``OSError(EACCES)`` where not all may be read.

        They have no ``file``: all reads must come through here.
        """
        extents: list[Extent] = []
        cursor, end = offset, offset + length
        while cursor < end:
            async with self._place(cursor, end) as (child, size):
                found = await child.block_status(cursor, size)
            extents += [Extent(extent.offset, extent.length, extent.status) for extent in found]
            cursor += size
        return merge_extents(extents)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give up whole clusters of a range, in the target too."""
        size = self.access_bitmap.size
        start = round_up(offset, self._unit)
        end = offset + length
        end = end if end >= size else round_down(end, self._unit)
        if start < end:
            self.access_bitmap.unmark(start, end - start)
            await self._copy.forget(start, end - start)
            await self._copy.target.pdiscard(start, end - start)

    @asynccontextmanager
    async def _place(self, offset: int, end: int) -> AsyncIterator[tuple[Child, int]]:
        """Yield where the range's first bytes are read and how many; nobody changes them there."""
        self._check(offset, end)
        done = self.done_bitmap.next_run(offset, end)
        if done is not None and done[0] == offset:
            yield self._copy.target, done[1]
            end = offset + done[1]
        else:
            end = end if done is None else done[0]
            # Guests wait only where the target is read already, so this does not.
            async with self._reads.shared(offset, end):
                yield self._copy.source, end - offset
        self._check(offset, end)

    def _check(self, offset: int, end: int) -> None:
        if self.error is not None or self.access_bitmap.next_clean(offset, end) is not None:
            raise os_error(errno.EACCES)
