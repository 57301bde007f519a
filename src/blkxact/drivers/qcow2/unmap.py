"""Zeroes and discards: changes of the map that need no bytes.

As QEMU does it: a zero cluster keeps its place in the file unless the request allows to unmap; a
discarded cluster reads as zeroes in version 3, and its place is free, unless clusters are to keep
their places (``discard-no-unref``). A partial cluster becomes a
zero cluster where the rest of it reads as zeroes too, else zeroes are written. Where L2 entries are
extended, the same goes for subclusters, but only whole clusters are discarded.

A data file that must read as the disk does is zeroed first. A discard reaches a data file when
nothing on disk leads there any more, with the range still held: a later write goes to the same
place.

QEMU's counterpart: ``qcow2_co_pwrite_zeroes``, ``zero_in_l2_slice``, ``discard_in_l2_slice``.
"""

from __future__ import annotations

import contextlib
import errno
from array import array
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial

from blkxact.block.types import WriteFlags
from blkxact.errors import os_error
from blkxact.runtime.steps import yield_turn

from .image import Image
from .layout import COMPRESSED, COPIED, OFFSET_MASK, PARTIAL, ZERO
from .runs import Kind
from .subclusters import SubclusterMap
from .writer import ReadDisk, Writer, is_zero, slice_parts

ZERO_PIECE = 1 << 20
"""Bytes of zeroes in one write, where the map cannot say it."""
SLICES_PER_TURN = 16
"""Slices changed before other tasks get a turn."""


class Place(Enum):
    """What becomes of the place of a cluster."""

    KEPT = 0
    EMPTIED = 1
    """The cluster keeps it, but not what is there."""
    FREE = 2


NewEntry = Callable[[int], tuple[int, Place]]
"""Maps an L2 entry to the new one, and to what becomes of the place of the old one's clusters."""


class Unmapper:
    """Zeroes and discards on one image."""

    def __init__(self, image: Image, writer: Writer, read_disk: ReadDisk) -> None:
        self.image = image
        self.map = image.map
        self.discard_file = False
        """Discard freed clusters in the file, too."""
        self.keep_places = False
        """Clusters keep their places when a guest zeroes or discards them."""
        self._writer = writer
        self._read_disk = read_disk

    # Zeroes

    async def zero(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Make a range read as zeroes; raises ``OSError``."""
        image = self.image
        end = offset + length
        unit = image.subcluster_size
        first = -(-offset & -unit)
        last = end & -unit
        if first > last:
            await self._zero_partial(offset, end, flags)
            return
        if offset < first:
            await self._zero_partial(offset, first, flags)
        if first < last:
            await self._zero_subclusters(first, last, flags)
        if last < end == image.size:  # nothing follows
            await self._zero_subclusters(last, end, flags)
        elif last < end:
            await self._zero_partial(last, end, flags)

    async def _zero_subclusters(self, start: int, end: int, flags: WriteFlags) -> None:
        """Zero whole subclusters."""
        image = self.image
        first = image.round_up(start)
        last = image.round_up(end) if end >= image.size else end & -image.cluster_size
        if start < first:
            await self._zero_in_cluster(start, min(first, end), flags)
        if first < last:
            await self._zero_clusters(first, last, flags)
        if first <= last < end:
            await self._zero_in_cluster(last, end, flags)

    async def _zero_in_cluster(self, start: int, end: int, flags: WriteFlags) -> None:
        """Zero some subclusters of a cluster."""
        image = self.image
        cluster = start & -image.cluster_size
        held = await image.ranges.acquire(cluster, cluster + image.cluster_size, exclusive=True)
        try:
            if image.header.data_file_raw:
                await self._zero_data(start, min(end, image.size), flags)
            async with image.lock:
                image.check_alive()
                done = await self._set_block_zero(start, end)
        finally:
            image.ranges.release(held)
        if not done:
            await self._write_zeroes(start, min(end, image.size), flags)

    async def _set_block_zero(self, start: int, end: int) -> bool:
        """Zero subclusters, or a cluster that has none (under the lock); return whether it did."""
        if not isinstance(self.map, SubclusterMap):
            await self._set_zero(start, end, unmap=False)
            return True
        key = start >> self.map.slice_shift
        return self.map.zero_subclusters(key, await self.map.writable(key), start, end)

    async def _zero_clusters(self, start: int, end: int, flags: WriteFlags) -> None:
        if self.image.header.version >= 3:
            unmap = bool(flags & WriteFlags.MAY_UNMAP)
            zero = flags if self.image.header.data_file_raw else None
            await self._alone(
                start, end, lambda: self._set_zero(start, end, unmap=unmap), zero_data=zero
            )
        elif self.image.backing is None:
            await self.discard(start, end)
        else:
            await self._write_zeroes(start, min(end, self.image.size), flags)

    async def _set_zero(self, start: int, end: int, *, unmap: bool) -> None:
        def zeroed(entry: int) -> tuple[int, Place]:
            if entry & COMPRESSED:
                return ZERO, Place.FREE
            if not unmap or not entry & OFFSET_MASK:
                return _zero_in_place(entry), Place.KEPT
            if self.keep_places:
                return _zero_in_place(entry), Place.EMPTIED
            return ZERO, Place.FREE

        await self._change(start, end, zeroed, empty=ZERO, discard=self.discard_file)

    async def _zero_partial(self, start: int, end: int, flags: WriteFlags) -> None:
        """Zero a part of one cluster, or subcluster."""
        image = self.image
        cluster = start & -image.cluster_size
        if image.header.version < 3:
            await self._write_zeroes(start, end, flags)
            return
        held = await image.ranges.acquire(cluster, cluster + image.cluster_size, exclusive=True)
        try:
            done = await self._zero_around(start, end)
        finally:
            image.ranges.release(held)
        if not done:
            await self._write_zeroes(start, end, flags)

    async def _zero_around(self, start: int, end: int) -> bool:
        """Make it a zero (sub)cluster if nothing else is in it; return whether it reads so now."""
        unit = self.image.subcluster_size
        block = start & -unit
        kind = (await self.image.runs(start, 1))[0].kind
        if kind in (Kind.ZERO, Kind.ZERO_ALLOCATED):
            return True
        if kind is not Kind.UNALLOCATED:
            return False
        stop = min(block + unit, self.image.size)
        for first, last in ((block, start), (end, stop)):
            if first < last and not is_zero(await self._read_disk(first, last - first)):
                return False
        if self.image.header.data_file_raw:
            await self._zero_data(block, stop, WriteFlags.NONE)
        async with self.image.lock:
            return await self._set_block_zero(block, block + unit)

    async def _write_zeroes(self, start: int, end: int, flags: WriteFlags) -> None:
        if flags & WriteFlags.NO_FALLBACK:
            raise os_error(errno.ENOTSUP)
        for offset in range(start, end, ZERO_PIECE):
            await self._writer.write(offset, bytes(min(ZERO_PIECE, end - offset)))

    # Discard

    async def discard(self, start: int, end: int, *, full: bool = False) -> None:
        """Free the whole clusters in a range; the last one may be cut by the end of the disk.

        With ``full`` they do not read as zeroes, but as the backing file.
        """
        image = self.image
        start = image.round_up(start)
        end = image.round_up(end) if end == image.size else end & -image.cluster_size
        if start < end:
            zero = WriteFlags.MAY_UNMAP if image.header.data_file_raw else None
            keep = self.keep_places and not full
            discard = partial(self.discard_locked, start, end, full=full, keep_places=keep)
            await self._alone(start, end, discard, zero_data=zero)

    async def discard_locked(
        self, start: int, end: int, *, full: bool = False, keep_places: bool = False
    ) -> None:
        """Free whole clusters; the caller holds the range and the lock."""
        backed = self.image.backing is not None and not full
        zero = ZERO if self.image.header.version >= 3 and not full else 0

        def discarded(entry: int) -> tuple[int, Place]:
            if not entry & (COMPRESSED | OFFSET_MASK):
                return (zero if backed or full else entry), Place.KEPT
            if keep_places and not entry & COMPRESSED:
                return _zero_in_place(entry), Place.EMPTIED
            return zero, Place.FREE

        empty = zero if backed else 0
        await self._change(start, end, discarded, empty=empty, discard=self.discard_file or full)

    # The map

    async def _alone(
        self,
        start: int,
        end: int,
        change: Callable[[], Awaitable[None]],
        *,
        zero_data: WriteFlags | None = None,
    ) -> None:
        """Change the map of a range alone; with ``zero_data`` after zeroing the data file."""
        image = self.image
        held = await image.ranges.acquire(start, end, exclusive=True)
        try:
            if zero_data is not None:
                await self._zero_data(start, min(end, image.size), zero_data)
            async with image.lock:
                image.check_alive()
                await change()
        finally:
            image.ranges.release(held)

    async def _change(
        self, start: int, end: int, new_entry: NewEntry, *, empty: int, discard: bool
    ) -> None:
        """Change the entries of a range; ``empty`` is what an entry of zero becomes."""
        cluster_size = self.image.cluster_size
        dropped: list[tuple[int, int]] = []
        emptied: list[tuple[int, int]] = []
        for number, (key, first, stop, offset) in enumerate(slice_parts(self.map, start, end)):
            if number % SLICES_PER_TURN == SLICES_PER_TURN - 1:
                await yield_turn()
            if not empty and not self.map.l1[offset >> self.map.table_shift]:
                continue
            piece = await self.map.writable(key)
            old = piece.entries[first:stop]
            new = array("Q", [empty]) * (stop - first)
            if any(old):
                for at, entry in enumerate(old):
                    new[at], place = new_entry(entry)
                    if place is Place.FREE:
                        self._writer.release(entry, discard=discard)
                        _append(dropped, entry & OFFSET_MASK, cluster_size)
                    elif place is Place.EMPTIED and self._is_new_zero(entry, new[at]):
                        _append(emptied, entry & OFFSET_MASK, cluster_size)
            if new != old:
                piece.entries[first:stop] = new
                self.map.touch(key, piece, first, stop)
            await self.image.relieve()
        if discard:
            await self._discard_data(dropped if self.image.has_data_file else [])
            await self._discard_data(emptied)

    def _is_new_zero(self, old: int, new: int) -> bool:
        """Return whether what lies at the place of a cluster is wanted by nobody any more.

        A snapshot may have the same cluster.
        """
        own = bool(old & COPIED) or self.image.has_data_file
        return new != old and own and not old & OFFSET_MASK & (self.image.cluster_size - 1)

    # The data file

    async def _zero_data(self, start: int, end: int, flags: WriteFlags) -> None:
        image = self.image
        await image.data.pwrite_zeroes(start + image.data_shift, end - start, flags)

    async def _discard_data(self, places: list[tuple[int, int]]) -> None:
        """Let what is at places of the disk's data go, which nobody reads any more."""
        if places:
            await self.image.write_back()
            await self.image.file.barrier()
        for start, length in places:
            # A hint: an error changes nothing for the image.
            with contextlib.suppress(OSError):
                await self.image.data.pdiscard(start, length)


def _zero_in_place(entry: int) -> int:
    return (entry | ZERO) & ~PARTIAL


def _append(places: list[tuple[int, int]], start: int, length: int) -> None:
    """Append a place, or lengthen the last one."""
    if places and sum(places[-1]) == start:
        places[-1] = places[-1][0], places[-1][1] + length
    else:
        places.append((start, length))
