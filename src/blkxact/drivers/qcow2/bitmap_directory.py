"""Persistent bitmaps: the bitmap directory of an image, and the bits behind it.

Laws:

* While a writable image is open, each loaded bitmap is marked as in use on disk: after a crash it
  is known to be stale (``inconsistent``), never taken for the truth.
* New data, table and directory go to new clusters; the header switches over in one write; only then
  are the old clusters released.
* Before a directory is changed in place its autoclear bit is taken away, so a torn one is ignored.

QEMU's counterpart: ``block/qcow2-bitmap.c``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from blkxact.bitmap import DirtyBitmap
from blkxact.dirty.freeze import reclaimed
from blkxact.errors import QmpError, strerror

from .image import Image
from .layout import (
    AUTOCLEAR_BITMAPS,
    MAX_BITMAP_DIRECTORY_BYTES,
    MAX_BITMAPS,
    BitmapsExtension,
)
from .layout_tables import (
    BITMAP_AUTO,
    BITMAP_ENTRY_ALL_ONES,
    BITMAP_ENTRY_OFFSET,
    BITMAP_IN_USE,
    BitmapEntry,
    bitmap_table_entry_is_sane,
    check_new_bitmap,
    pack_bitmap_directory,
    packed_bitmap_size,
    parse_bitmap_directory,
)
from .metadata_guard import BITMAP_DIRECTORY

BATCH_BYTES = 1 << 20
"""Bitmap data written with one allocation; bounds the memory that storing takes, and the time until
others have a turn."""
LOAD_BYTES = 256 << 10
"""Bitmap data read and taken at a time."""


class BitmapDirectory:
    """The directory of one image; ``entries`` is what is on disk."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.entries: list[BitmapEntry] = []
        self.loaded = False
        """The bitmaps are in memory: they are marked as in use, or read-only."""
        self._unread_clusters = 0
        """While bitmaps are loaded: clusters of the file that no bitmap was read from yet."""
        self.doomed: set[str] = set()
        """Removed bitmaps that an error kept in the image: ``remove_doomed`` tries again."""

    async def load(self) -> None:
        """Read the directory; raises ``QmpError``."""
        header = self.image.header
        place = header.bitmaps
        if place is None:
            return
        if place.directory_size == 0:
            raise QmpError("Requested bitmap directory size is zero")
        try:
            data = await self.image.file.child.pread(place.directory_offset, place.directory_size)
        except OSError as error:
            raise QmpError(f"Failed to read bitmap directory: {strerror(error)}") from error
        self.entries = parse_bitmap_directory(bytes(data), place.count, header, self.image.size)

    def describe(self) -> list[dict[str, Any]]:
        """Return Qcow2BitmapInfo of every bitmap on disk."""
        flags = ((BITMAP_IN_USE, "in-use"), (BITMAP_AUTO, "auto"))
        return [
            {
                "name": entry.name,
                "granularity": 1 << entry.granularity_bits,
                "flags": [name for bit, name in flags if entry.flags & bit],
            }
            for entry in self.entries
        ]

    def check_new(self, name: str, granularity: int, node_name: str) -> None:
        """Raise ``QmpError`` unless a bitmap can be kept in the image."""
        try:
            self._check_room(name, granularity)
        except QmpError as error:
            raise QmpError(
                f"Can't make bitmap '{name}' persistent in '{node_name}': {error.desc}"
            ) from error

    def _check_room(self, name: str, granularity: int) -> None:
        if self.image.header.version < 3:
            raise QmpError("Cannot store dirty bitmaps in qcow2 v2 files")
        check_new_bitmap(name, granularity, self.image.size, self.image.cluster_size)
        if len(self.entries) >= MAX_BITMAPS:
            raise QmpError("Maximum number of persistent bitmaps is already reached")
        used = sum(entry.packed_size for entry in self.entries)
        if used + packed_bitmap_size(name) > MAX_BITMAP_DIRECTORY_BYTES:
            raise QmpError("Not enough space in the bitmap directory")

    # Loading

    async def load_bitmaps(self, *, writable: bool) -> list[DirtyBitmap]:
        """Return the bitmaps of the image; those of a writable one become in use on disk."""
        self._unread_clusters = -(-self.image.file.child.length >> self.image.cluster_bits)
        bitmaps = [await self._load_bitmap(entry) for entry in self.entries]
        self.loaded = True
        if writable:
            await self.mark_in_use()
        for bitmap in bitmaps:
            bitmap.read_only = not writable
        return bitmaps

    async def _load_bitmap(self, entry: BitmapEntry) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.image.size, 1 << entry.granularity_bits, entry.name)
        bitmap.persistent = True
        if entry.in_use:
            bitmap.mark_inconsistent()
            return bitmap
        try:
            table = await self._read_table(entry)
            await self._read_bits(bitmap, table)
        except (OSError, ValueError) as error:
            why = strerror(error) if isinstance(error, OSError) else "Invalid argument"
            raise QmpError(f"Could not read bitmap '{entry.name}' from image: {why}") from error
        bitmap.compact()
        bitmap.enabled = bool(entry.flags & BITMAP_AUTO)
        return bitmap

    async def _read_table(self, entry: BitmapEntry) -> array[int]:
        """Return a bitmap table; raises ``ValueError`` for one that cannot be."""
        table = await self.image.file.read_table(entry.table_offset, entry.table_size)
        if not all(
            bitmap_table_entry_is_sane(item, self.image.cluster_size) for item in set(table)
        ):
            raise ValueError(entry.name)
        return table

    async def _read_bits(self, bitmap: DirtyBitmap, table: array[int]) -> None:
        size = self.image.cluster_size
        if len(table) != -(-bitmap.data_length // size):
            raise ValueError(bitmap.name)
        # No two bitmaps share a cluster: whoever says so could make us read without an end.
        self._unread_clusters -= sum(1 for item in table if item & BITMAP_ENTRY_OFFSET)
        if self._unread_clusters < 0:
            raise ValueError(bitmap.name)
        for index, item in enumerate(table):
            if item & BITMAP_ENTRY_ALL_ONES and not item & BITMAP_ENTRY_OFFSET:
                bitmap.deserialize_ones(index * size, size)
        for position, offset, length in _stored_pieces(table, size):
            bitmap.deserialize(position, await self.image.file.child.pread(offset, length))

    async def mark_in_use(self) -> None:
        """Mark every loaded bitmap as in use on disk; raises ``QmpError``."""
        entries = [replace(entry, flags=entry.flags | BITMAP_IN_USE) for entry in self.entries]
        if not self.loaded or entries == self.entries:
            return
        image = self.image
        place = image.header.bitmaps
        assert place is not None
        try:
            async with image.lock:
                image.header.autoclear &= ~AUTOCLEAR_BITMAPS
                await image.write_header()
                packed = pack_bitmap_directory(entries)
                await image.file.child.pwrite(place.directory_offset, packed)
                await image.file.barrier()
                image.header.autoclear |= AUTOCLEAR_BITMAPS
                await image.write_header()
        except OSError as error:
            raise QmpError(f"Can't update bitmap directory: {strerror(error)}") from error
        self.entries = entries

    # Storing

    async def store(self, bitmaps: list[DirtyBitmap]) -> None:
        """Write bitmaps to the image and take the in-use mark from them; raises ``QmpError``.

        One that a job has frozen is stored as if the job failed: how it ends is not known yet.
        """
        todo = [
            reclaimed(bitmap) if bitmap.frozen else bitmap
            for bitmap in bitmaps
            if not (bitmap.inconsistent or bitmap.read_only)
        ]
        if not todo:
            return
        taken: list[tuple[int, int]] = []
        async with self.image.lock:
            try:
                entries, replaced = await self._store_all(todo, taken)
                await self._switch(entries, taken)
            except OSError as error:
                await self._give_back(taken)
                raise QmpError(f"Failed to update bitmap extension: {strerror(error)}") from error
            except BaseException:
                await self._give_back(taken)
                raise
            # Whoever was removed and made anew is there again.
            self.doomed -= {entry.name for entry in entries if not entry.in_use}
            await self._release_bitmaps(replaced)
            await self._write_back()

    async def _store_all(
        self, bitmaps: list[DirtyBitmap], taken: list[tuple[int, int]]
    ) -> tuple[list[BitmapEntry], list[BitmapEntry]]:
        """Write the bits and tables; return the new directory and the entries it replaces."""
        entries = {entry.name: entry for entry in self.entries}
        replaced = []
        for bitmap in bitmaps:
            assert bitmap.name is not None
            old = entries.get(bitmap.name)
            self._check_stored(bitmap, old)
            if old is not None:
                replaced.append(old)
            offset, size = await self._store_bitmap(bitmap, taken)
            entries[bitmap.name] = BitmapEntry(
                bitmap.name,
                bitmap.granularity.bit_length() - 1,
                BITMAP_AUTO if bitmap.enabled else 0,
                offset,
                size,
            )
        if len(entries) > MAX_BITMAPS:
            raise QmpError("Too many persistent bitmaps")
        if sum(entry.packed_size for entry in entries.values()) > MAX_BITMAP_DIRECTORY_BYTES:
            raise QmpError("Bitmap directory is too large")
        return list(entries.values()), replaced

    def _check_stored(self, bitmap: DirtyBitmap, old: BitmapEntry | None) -> None:
        assert bitmap.name is not None
        try:
            check_new_bitmap(
                bitmap.name,
                bitmap.granularity,
                self.image.size,
                self.image.cluster_size,
                storing=True,
            )
        except QmpError as error:
            raise QmpError(
                f"Bitmap '{bitmap.name}' doesn't satisfy the constraints: {error.desc}"
            ) from error
        if old is not None and not old.in_use:
            raise QmpError(f"Bitmap '{bitmap.name}' already exists in the image")

    async def _store_bitmap(
        self, bitmap: DirtyBitmap, taken: list[tuple[int, int]]
    ) -> tuple[int, int]:
        """Write bits and table of one bitmap; return the table's offset and size."""
        image = self.image
        size = image.cluster_size
        ones = b"\xff" * size
        table = array("Q", bytes(8 * -(-bitmap.data_length // size)))
        pieces = bitmap.serialized_pieces(size)
        while batch := list(islice(pieces, max(1, BATCH_BYTES // size))):
            stored = []
            for index, data in batch:
                if data == ones:
                    table[index] = BITMAP_ENTRY_ALL_ONES
                else:
                    stored.append((index, data))
            await self._store_pieces(stored, table, taken)
        offset = await self._take(len(table) * 8, taken)
        await image.file.write_table(offset, table)
        return offset, len(table)

    async def _store_pieces(
        self, pieces: list[tuple[int, bytes]], table: array[int], taken: list[tuple[int, int]]
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

    async def _take(self, length: int, taken: list[tuple[int, int]], use: str | None = None) -> int:
        """Take clusters in a row for ``length`` bytes; return their offset."""
        bits = self.image.cluster_bits
        run = await self.image.refcounts.allocate_contiguous(-(-length >> bits), use)
        taken.append((run.first, run.clusters))
        return run.first << bits

    async def _switch(self, entries: list[BitmapEntry], taken: list[tuple[int, int]]) -> None:
        """Write a new directory and let the header lead to it (under the lock)."""
        image, header = self.image, self.image.header
        old, old_autoclear = header.bitmaps, header.autoclear
        place = None
        if entries:
            packed = pack_bitmap_directory(entries)
            offset = await self._take(len(packed), taken, BITMAP_DIRECTORY)
            await image.file.child.pwrite(offset, packed)
            place = BitmapsExtension(len(entries), len(packed), offset)
        await image.write_back()
        await image.file.barrier()
        header.bitmaps = place
        header.autoclear = old_autoclear & ~AUTOCLEAR_BITMAPS
        header.autoclear |= AUTOCLEAR_BITMAPS if entries else 0
        try:
            await image.write_header()
        except OSError:
            header.bitmaps, header.autoclear = old, old_autoclear
            raise
        taken.clear()
        self.entries = entries
        if old is not None:
            self._release(old.directory_offset, old.directory_size)

    async def remove(self, name: str) -> None:
        """Take a bitmap out of the image; raises ``QmpError``, and it is still doomed then."""
        self.doomed.add(name)
        await self.remove_doomed()

    async def remove_doomed(self) -> None:
        """Take out of the image what is doomed and still there; raises ``QmpError``."""
        taken: list[tuple[int, int]] = []
        async with self.image.lock:
            gone = [entry for entry in self.entries if entry.name in self.doomed]
            if gone:
                kept = [entry for entry in self.entries if entry not in gone]
                try:
                    await self._switch(kept, taken)
                except OSError as error:
                    await self._give_back(taken)
                    text = f"Failed to update bitmap extension: {strerror(error)}"
                    raise QmpError(text) from error
            self.doomed.clear()
            if gone:
                await self._release_bitmaps(gone)
                await self._write_back()

    # Clusters

    async def _release_bitmaps(self, entries: list[BitmapEntry]) -> None:
        """Release table and data of bitmaps that the directory does not hold any more."""
        for entry in entries:
            try:
                table = await self._read_table(entry)
            except (OSError, ValueError):
                continue  # what it leads to leaks; nothing else can be done with it
            for item in table:
                if item & BITMAP_ENTRY_OFFSET:
                    self._release(item & BITMAP_ENTRY_OFFSET, self.image.cluster_size)
            self._release(entry.table_offset, entry.table_size * 8)

    def _release(self, offset: int, length: int) -> None:
        bits = self.image.cluster_bits
        self.image.refcounts.release(offset >> bits, -(-length >> bits))

    async def _write_back(self) -> None:
        """Write the counts that fell; a failure leaks clusters, and the bitmaps are safe."""
        try:
            await self.image.write_back()
        except OSError as error:
            raise QmpError(f"Failed to update bitmap extension: {strerror(error)}") from error

    async def _give_back(self, taken: list[tuple[int, int]]) -> None:
        for first, count in taken:
            await self.image.refcounts.unallocate(first, count)


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
