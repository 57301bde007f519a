"""Persistent bitmaps: the bitmap directory of an image, and the bits that it leads to.

Invariants:

* While a writable image is open, each loaded bitmap is marked as in use on disk: after a crash it
  is known to be stale (``inconsistent``), never taken for the truth.
* New data, table and directory go to new clusters; the header switches over in one write; only then
  are the old clusters released.
* Where there is no room for new clusters, each bitmap is written over its own stale state and the
  directory is changed in place. Only a node that is being closed may lose the bitmaps for which
  even that fails; otherwise all stay marked.
* Before a directory is changed in place its autoclear bit is taken away, so a torn one is ignored.

QEMU's counterpart: ``block/qcow2-bitmap.c``.
"""

from __future__ import annotations

import errno
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from blkxact.errors import QmpError, os_error, strerror

from .bitmap_clusters import BitmapClusters, Taken
from .bitmap_repair import rewrite_directory
from .image import Image
from .layout import (
    AUTOCLEAR_BITMAPS,
    MAX_BITMAP_DIRECTORY_BYTES,
    MAX_BITMAPS,
    BitmapsExtension,
)
from .layout_tables import (
    BITMAP_AUTO,
    BITMAP_IN_USE,
    BitmapEntry,
    check_directory_size,
    check_new_bitmap,
    pack_checked_directory,
    packed_bitmap_size,
    parse_bitmap_directory,
)
from .metadata_guard import BITMAP_DIRECTORY

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap


class BitmapDirectory:
    """The directory of one image; ``entries`` is what is on disk."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.entries: list[BitmapEntry] = []
        self.clusters = BitmapClusters(image)
        self.loaded = False
        """The bitmaps are in memory: they are marked as in use, or read-only."""
        self._unsure = False
        """A failed write of the header leaves open which directory it leads to, marked or not."""
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

    def check_names(self, taken: Container[str]) -> None:
        """Raise ``QmpError`` if a bitmap of the image has a name that is taken."""
        for entry in self.entries:
            if entry.name in taken:
                raise QmpError(f"Bitmap already exists: {entry.name}")

    async def load_bitmaps(self, *, writable: bool) -> list[DirtyBitmap]:
        """Return the bitmaps of the image; those of a writable one become in use on disk."""
        self.clusters.unread = -(-self.image.file.child.length >> self.image.cluster_bits)
        bitmaps = [await self._load_bitmap(entry) for entry in self.entries]
        self.loaded = True
        if writable:
            await self.mark_in_use()
        for bitmap in bitmaps:
            bitmap.read_only = not writable
        return bitmaps

    async def _load_bitmap(self, entry: BitmapEntry) -> DirtyBitmap:
        from blkxact.bitmap import DirtyBitmap  # noqa: PLC0415 - most images have none

        bitmap = DirtyBitmap(self.image.size, 1 << entry.granularity_bits, entry.name)
        bitmap.persistent = True
        if entry.in_use:
            bitmap.mark_inconsistent()
            return bitmap
        try:
            await self.clusters.load(bitmap, entry)
        except (OSError, ValueError) as error:
            why = strerror(error) if isinstance(error, OSError) else "Invalid argument"
            raise QmpError(f"Could not read bitmap '{entry.name}' from image: {why}") from error
        bitmap.compact()
        bitmap.enabled = bool(entry.flags & BITMAP_AUTO)
        return bitmap

    async def mark_in_use(self) -> None:
        """Mark every loaded bitmap as in use on disk; raises ``QmpError``."""
        entries = [_marked(entry) for entry in self.entries]
        if not self.loaded or not self.entries or (entries == self.entries and not self._unsure):
            return
        try:
            async with self.image.lock:
                await self._rewrite_directory(entries)
        except OSError as error:
            # Nobody may write to an image whose bitmaps may claim to know of it.
            self.image.file.dead = self.image.file.dead or self._unsure
            raise QmpError(f"Can't update bitmap directory: {strerror(error)}") from error

    # Storing

    async def store(self, bitmaps: list[DirtyBitmap], *, closing: bool = False) -> None:
        """Write bitmaps to the image and take the in-use mark from them; raises ``QmpError``.

        After a failure all stay marked; with ``closing`` (nobody will write to the image) only
        those that could not be stored. A bitmap that a job has frozen is stored as if the job
        failed: how it ends is not known yet.
        """
        todo = [
            bitmap.as_if_reclaimed() if bitmap.frozen else bitmap
            for bitmap in bitmaps
            if not (bitmap.inconsistent or bitmap.read_only)
        ]
        if not todo:
            return
        async with self.image.lock:
            try:
                await self._store_anew(todo)
            except QmpError as error:
                await self._store_in_place(todo, error, closing=closing)
            # A bitmap that was removed and made again is there again.
            self.doomed -= {entry.name for entry in self.entries if not entry.in_use}
            await self._write_back()

    async def _store_anew(self, bitmaps: list[DirtyBitmap]) -> None:
        """Write all bitmaps to new clusters; raises ``QmpError``, and nothing has changed then."""
        taken: Taken = []
        try:
            entries, replaced = await self._store_all(bitmaps, taken)
            await self._switch(entries, taken)
        except OSError as error:
            await self.clusters.give_back(taken)
            raise _failed(error) from error
        except BaseException:
            await self.clusters.give_back(taken)
            raise
        await self.clusters.release(replaced)

    async def _store_all(
        self, bitmaps: list[DirtyBitmap], taken: Taken
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
            entries[bitmap.name] = await self.clusters.store(bitmap, taken)
        check_directory_size(entries.values())
        return list(entries.values()), replaced

    async def _store_in_place(
        self, bitmaps: list[DirtyBitmap], error: QmpError, *, closing: bool
    ) -> None:
        """Write each bitmap that can be written over its stale state; raises ``QmpError``.

        ``error`` is why they could not be written again.
        """
        if self.image.header.bitmaps is None:
            raise error
        entries = {entry.name: entry for entry in self.entries}
        freed: list[tuple[int, int]] = []
        failure: QmpError | None = None
        for bitmap in bitmaps:
            assert bitmap.name is not None
            try:
                entries[bitmap.name] = await self._rewritten(bitmap, entries, freed)
            except OSError as failed:
                failure = failure or _failed(failed)
            except QmpError as failed:
                failure = failure or failed
        kept = list(entries.values())
        if failure is not None and not closing:
            known = {entry.name for entry in self.entries}
            kept = [_marked(entry) for entry in kept if entry.name in known]
            await self.clusters.release([e for e in entries.values() if e.name not in known])
        if kept != self.entries:
            try:
                await self._rewrite_directory(kept)
            except OSError as failed:
                raise _failed(failed) from failed  # what was taken leaks
        for offset, length in freed:
            self.clusters.release_bytes(offset, length)
        if failure is not None:
            raise failure

    async def _rewritten(
        self,
        bitmap: DirtyBitmap,
        entries: dict[str, BitmapEntry],
        freed: list[tuple[int, int]],
    ) -> BitmapEntry:
        """Write one bitmap, in place if it is in the image; return its entry."""
        assert bitmap.name is not None
        old = entries.get(bitmap.name)
        self._check_stored(bitmap, old)
        if old is not None:
            entry, unused = await self.clusters.rewrite(bitmap, old)
            freed += unused
            return entry
        taken: Taken = []
        try:
            entry = await self.clusters.store(bitmap, taken)
            self._check_fits([*entries.values(), entry])
            await self.image.refcounts.write_dirty()
        except BaseException:
            await self.clusters.give_back(taken)
            raise
        return entry

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

    # The directory

    async def _switch(self, entries: list[BitmapEntry], taken: Taken) -> None:
        """Replace the directory, in place if there is no room for a new one (under the lock).

        ``taken`` belongs to the new directory's bitmaps, and is empty afterwards.
        """
        own: Taken = []
        try:
            await self._switch_to_new(entries, own)
        except OSError:
            await self.clusters.give_back(own)
            if not entries or not self._fits(entries):
                raise
            if taken:
                await self.image.refcounts.write_dirty()
            await self._rewrite_directory(entries)
        taken.clear()

    async def _switch_to_new(self, entries: list[BitmapEntry], taken: Taken) -> None:
        """Write a new directory and let the header lead to it."""
        image, header = self.image, self.image.header
        old, old_autoclear = header.bitmaps, header.autoclear
        place = None
        if entries:
            packed = self._packed(entries)
            offset = await self.clusters.take(len(packed), taken, BITMAP_DIRECTORY)
            await image.file.child.pwrite(offset, packed)
            place = BitmapsExtension(len(entries), len(packed), offset)
        await image.write_back()
        await image.file.barrier()
        header.bitmaps = place
        header.autoclear = old_autoclear & ~AUTOCLEAR_BITMAPS
        header.autoclear |= AUTOCLEAR_BITMAPS if entries else 0
        self._unsure = True
        try:
            await image.write_header()
        except OSError:
            header.bitmaps, header.autoclear = old, old_autoclear
            raise
        self._unsure = False
        self.entries = entries
        if old is not None:
            self.clusters.release_bytes(old.directory_offset, old.directory_size)

    async def _rewrite_directory(self, entries: list[BitmapEntry]) -> None:
        packed = self._packed(entries)
        self._unsure = True
        await rewrite_directory(self.image, len(entries), packed)
        self._unsure = False
        self.entries = entries

    def _fits(self, entries: list[BitmapEntry]) -> bool:
        """Return whether a directory can be written where the present one is."""
        place = self.image.header.bitmaps
        needed = sum(entry.packed_size for entry in entries)
        return place is not None and needed <= self.image.round_up(place.directory_size)

    def _check_fits(self, entries: list[BitmapEntry]) -> None:
        if not self._fits(entries):
            raise os_error(errno.ENOSPC)

    def _packed(self, entries: list[BitmapEntry]) -> bytes:
        return pack_checked_directory(entries, self.image.header, self.image.size)

    # Removing

    async def remove(self, name: str) -> None:
        """Take a bitmap out of the image; raises ``QmpError``, and it is still doomed then."""
        if not self.image.file.writable:  # an inactive image, whose bitmaps are others' now
            return
        self.doomed.add(name)
        await self.remove_doomed()

    async def remove_doomed(self) -> None:
        """Take out of the image what is doomed and still there; raises ``QmpError``."""
        async with self.image.lock:
            gone = [entry for entry in self.entries if entry.name in self.doomed]
            if gone:
                kept = [entry for entry in self.entries if entry not in gone]
                try:
                    await self._switch(kept, [])
                except OSError as error:
                    raise _failed(error) from error
            self.doomed.clear()
            if gone:
                await self.clusters.release(gone)
                await self._write_back()

    async def _write_back(self) -> None:
        """Write the counts that fell; a failure leaks clusters, and the bitmaps are safe."""
        try:
            await self.image.write_back()
        except OSError as error:
            raise _failed(error) from error


def _marked(entry: BitmapEntry) -> BitmapEntry:
    return entry.changed(flags=entry.flags | BITMAP_IN_USE)


def _failed(error: OSError) -> QmpError:
    return QmpError(f"Failed to update bitmap extension: {strerror(error)}")
