"""The clusters of one persistent bitmap: its table and its bits, read and written.

Invariants:

* ``store`` writes to new clusters only.
* ``rewrite`` reuses the clusters of a bitmap that is marked as in use on disk. It takes what it
  needs in addition, and writes that, before it changes anything in place, so a full disk leaves the
  bitmap as it was. A crash at any point leaves no cluster with two references.

QEMU's counterpart: ``store_bitmap``, ``load_bitmap_data`` in ``block/qcow2-bitmap.c``.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from blkxact.errors import os_error
from blkxact.runtime.steps import yield_turn

from .image import Image
from .layout_tables import (
    BITMAP_AUTO,
    BITMAP_ENTRY_ALL_ONES,
    BITMAP_ENTRY_OFFSET,
    BitmapEntry,
    bitmap_table_entry_is_sane,
)

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

BATCH_BYTES = 1 << 20
"""Bitmap data written with one allocation; bounds the memory that storing takes, and the time until
others have a turn."""
LOAD_BYTES = 256 << 10
"""Bitmap data read and taken at a time."""

Taken = list[tuple[int, int]]
"""Runs of clusters ``(first, count)`` to be given back after a failure."""
_DATA = 2
"""In a plan: the cluster has bits of its own. 0 and ``BITMAP_ENTRY_ALL_ONES``: it needs none."""


class BitmapClusters:
    """Reads and writes the tables and bits of the bitmaps of one image (under its lock)."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.unread = 0
        """While bitmaps are loaded: clusters of the file that no bitmap was read from yet."""

    async def load(self, bitmap: DirtyBitmap, entry: BitmapEntry) -> None:
        """Set the bits that are on disk; raises ``OSError`` and ``ValueError``."""
        table = await self.read_whole_table(bitmap, entry)
        size = self.image.cluster_size
        for index, item in enumerate(table):
            if item & BITMAP_ENTRY_ALL_ONES and not item & BITMAP_ENTRY_OFFSET:
                bitmap.deserialize_ones(index * size, size)
        for position, offset, length in _stored_pieces(table, size):
            bitmap.deserialize(position, await self.image.file.child.pread(offset, length))

    async def read_whole_table(self, bitmap: DirtyBitmap, entry: BitmapEntry) -> array[int]:
        """Return a table that fits the bitmap; raises as ``read_table``."""
        table = await self.read_table(entry)
        if len(table) != -(-bitmap.data_length // self.image.cluster_size):
            raise ValueError(bitmap.name)
        # No two bitmaps share a cluster: an image in which they do could make us read endlessly.
        self.unread -= sum(1 for item in table if item & BITMAP_ENTRY_OFFSET)
        if self.unread < 0:
            raise ValueError(bitmap.name)
        return table

    async def read_table(self, entry: BitmapEntry) -> array[int]:
        """Return a bitmap table; raises ``OSError``, and ``ValueError`` for an impossible one."""
        table = await self.image.file.read_table(entry.table_offset, entry.table_size)
        if not all(
            bitmap_table_entry_is_sane(item, self.image.cluster_size) for item in set(table)
        ):
            raise ValueError(entry.name)
        return table

    # Writing elsewhere

    async def store(self, bitmap: DirtyBitmap, taken: Taken) -> BitmapEntry:
        """Write bits and table of one bitmap to new clusters; return its entry."""
        size = self.image.cluster_size
        ones = b"\xff" * size
        table = array("Q", bytes(8 * -(-bitmap.data_length // size)))
        for batch in self._batches(bitmap):
            stored = []
            for index, data in batch:
                if data == ones:
                    table[index] = BITMAP_ENTRY_ALL_ONES
                else:
                    stored.append((index, data))
            await self._store_pieces(stored, table, taken)
        offset = await self.take(len(table) * 8, taken)
        await self.image.file.write_table(offset, table)
        return _entry(bitmap, offset, len(table))

    async def _store_pieces(
        self, pieces: list[tuple[int, bytes]], table: array[int], taken: Taken
    ) -> None:
        image = self.image
        done = 0
        for run in await image.refcounts.allocate(len(pieces)) if pieces else []:
            taken.append((run.first, run.clusters))
            part = pieces[done : done + run.clusters]
            host = run.first << image.cluster_bits
            for number, (index, _) in enumerate(part):
                table[index] = host + (number << image.cluster_bits)
            await image.file.child.pwrite(host, b"".join(data for _, data in part))
            done += run.clusters

    def _batches(self, bitmap: DirtyBitmap) -> Iterator[list[tuple[int, bytes]]]:
        """Yield ``(index, data)`` of the clusters with a bit set, ``BATCH_BYTES`` at a time."""
        size = self.image.cluster_size
        pieces = bitmap.serialized_pieces(size)
        while batch := list(islice(pieces, max(1, BATCH_BYTES // size))):
            yield batch

    async def take(self, length: int, taken: Taken, use: str | None = None) -> int:
        """Take clusters in a row for ``length`` bytes; return their offset."""
        bits = self.image.cluster_bits
        run = await self.image.refcounts.allocate_contiguous(-(-length >> bits), use)
        taken.append((run.first, run.clusters))
        return run.first << bits

    async def give_back(self, taken: Taken) -> None:
        """Free clusters that nothing on disk refers to."""
        for first, count in taken:
            await self.image.refcounts.unallocate(first, count)
        taken.clear()

    # Writing in place

    async def rewrite(
        self, bitmap: DirtyBitmap, old: BitmapEntry
    ) -> tuple[BitmapEntry, list[tuple[int, int]]]:
        """Write a bitmap over its stale state on disk, with as few new clusters as possible.

        Returns its entry, and the ``(offset, length)`` that nothing needs once the directory has
        that entry. Raises ``OSError``. A bitmap that is on disk as it is in memory costs no write.
        """
        assert old.in_use
        try:
            table = await self.read_table(old)
        except ValueError as error:
            raise os_error(errno.EIO) from error
        plan = await self._plan(bitmap)
        new, spare, missing = _reuse(table, plan)
        dropped = new[:]
        taken: Taken = []
        moved = self._clusters(len(new)) > self._clusters(len(table))
        try:
            fresh = await self._take_data(len(missing) - len(spare), taken)
            for index, offset in zip(missing, fresh + spare, strict=False):
                new[index] = offset
            place = await self.take(len(new) * 8, taken) if moved else old.table_offset
            if taken:
                await self._write_data(bitmap, new, set(fresh))
                if moved:
                    await self.image.file.write_table(place, new)
                await self.image.refcounts.write_dirty()
                await self.image.file.barrier()
        except BaseException:
            await self.give_back(taken)
            raise
        await self._write_data(bitmap, new, set(new) - set(fresh))
        if not moved:
            await self._write_table(place, table, dropped, new)
        freed = [(offset, self.image.cluster_size) for offset in spare[len(missing) - len(fresh) :]]
        if moved:
            freed.append((old.table_offset, old.table_size * 8))
        return _entry(bitmap, place, len(new)), freed

    async def _plan(self, bitmap: DirtyBitmap) -> bytearray:
        """Return for each cluster of a bitmap's data what its table entry is to be."""
        size = self.image.cluster_size
        ones = b"\xff" * size
        plan = bytearray(-(-bitmap.data_length // size))
        for batch in self._batches(bitmap):
            for index, data in batch:
                plan[index] = BITMAP_ENTRY_ALL_ONES if data == ones else _DATA
            await yield_turn()
        return plan

    async def _take_data(self, count: int, taken: Taken) -> list[int]:
        offsets = []
        for run in await self.image.refcounts.allocate(count) if count > 0 else []:
            taken.append((run.first, run.clusters))
            offsets += [
                cluster << self.image.cluster_bits
                for cluster in range(run.first, run.first + run.clusters)
            ]
        return offsets

    async def _write_data(self, bitmap: DirtyBitmap, table: array[int], where: set[int]) -> None:
        """Write those clusters of a bitmap's data that lie in ``where`` and differ on disk."""
        child, size = self.image.file.child, self.image.cluster_size
        for batch in self._batches(bitmap):
            for index, data in batch:
                offset = table[index] & BITMAP_ENTRY_OFFSET
                if not offset or offset not in where:
                    continue
                padded = data.ljust(size, b"\0")
                if bytes(await child.pread(offset, size)) != padded:
                    await child.pwrite(offset, padded)

    async def _write_table(
        self, offset: int, old: array[int], dropped: array[int], new: array[int]
    ) -> None:
        """Replace a table; a cluster that changes its place in it is first taken out durably."""
        longer = max(len(old), len(new))
        for step in (old, dropped, new):
            step.extend([0] * (longer - len(step)))
        write_table, barrier = self.image.file.write_table, self.image.file.barrier
        for before, after in ((old, dropped), (dropped, new)):
            if before != after:
                await barrier()
                await write_table(offset, after)

    def _clusters(self, entries: int) -> int:
        return -(-entries * 8 >> self.image.cluster_bits)

    # Releasing

    async def release(self, entries: list[BitmapEntry]) -> None:
        """Release table and data of bitmaps that the directory does not hold any more."""
        for entry in entries:
            try:
                table = await self.read_table(entry)
            except (OSError, ValueError):
                continue  # what it leads to leaks; nothing else can be done with it
            for item in table:
                if item & BITMAP_ENTRY_OFFSET:
                    self.release_bytes(item & BITMAP_ENTRY_OFFSET, self.image.cluster_size)
            self.release_bytes(entry.table_offset, entry.table_size * 8)

    def release_bytes(self, offset: int, length: int) -> None:
        """Release the clusters of a range."""
        bits = self.image.cluster_bits
        self.image.refcounts.release(offset >> bits, -(-length >> bits))


def _entry(bitmap: DirtyBitmap, table_offset: int, table_size: int) -> BitmapEntry:
    assert bitmap.name is not None
    return BitmapEntry(
        bitmap.name,
        bitmap.granularity.bit_length() - 1,
        BITMAP_AUTO if bitmap.enabled else 0,
        table_offset,
        table_size,
    )


def _reuse(table: array[int], plan: bytearray) -> tuple[array[int], list[int], list[int]]:
    """Match the clusters of a table with a plan: those that are still needed keep their index.

    Returns the new table, the clusters it does not use, and the indexes that still need one.
    """
    new = array("Q", bytes(8 * len(plan)))
    spare, missing = [], []
    for index, item in enumerate(table):
        offset = item & BITMAP_ENTRY_OFFSET
        if offset and index < len(plan) and plan[index] == _DATA:
            new[index] = offset
        elif offset:
            spare.append(offset)
    for index, kind in enumerate(plan):
        if kind == BITMAP_ENTRY_ALL_ONES:
            new[index] = BITMAP_ENTRY_ALL_ONES
        elif kind == _DATA and not new[index]:
            missing.append(index)
    return new, spare, missing


def _stored_pieces(table: array[int], cluster_size: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(position in the bitmap's data, offset in the file, length)`` of what is stored.

    Clusters that follow one another in both are read together, up to ``LOAD_BYTES``.
    """
    position = start = length = 0
    for index, item in enumerate(table):
        offset = item & BITMAP_ENTRY_OFFSET
        if not offset:
            continue
        at = index * cluster_size
        follows = offset == start + length and at == position + length
        if not follows or length + cluster_size > LOAD_BYTES:
            if length:
                yield position, start, length
            position, start, length = at, offset, 0
        length += cluster_size
    if length:
        yield position, start, length
