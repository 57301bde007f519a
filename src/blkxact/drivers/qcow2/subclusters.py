"""Extended L2 entries: each cluster has 32 subclusters, which are allocated, zero or neither.

In memory an entry is what a standard one would be, wherever that says everything: every subcluster
allocated, none, or all of them zero (``ZERO``). So whole clusters go the ways of the standard
format. Any other cluster is flagged as ``PARTIAL``, and its slice holds the bitmap.

Invariants:

* ``entry_bitmap`` is the bitmap of an entry on disk; a bitmap kept for an entry that is not
  ``PARTIAL`` means nothing.
* A write fills whole subclusters. In a cluster that is the disk's own it allocates those that it
  touches; one that must move takes the others along, as far as they are allocated.
* A subcluster that is both allocated and zero, or allocated in no cluster, is corrupt.

QEMU's counterpart: ``qcow2_get_subcluster_type``, ``calculate_l2_meta``; specification, section
"Extended L2 Entries".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from .cluster_map import ClusterMap
from .l2_slice import L2Slice
from .layout import COMPRESSED, COPIED, OFFSET_MASK, PARTIAL, SUBCLUSTER_BITS, SUBCLUSTERS, ZERO
from .metadata_file import MetadataFile
from .refcounts import Refcounts
from .runs import Kind, Run

ALL_ALLOCATED = (1 << SUBCLUSTERS) - 1
ALL_ZERO = ALL_ALLOCATED << SUBCLUSTERS
_MEMORY_FLAGS = ZERO | PARTIAL


def entry_bitmap(piece: L2Slice, at: int) -> int:
    """Return the bitmap that belongs to an entry of a slice."""
    entry = piece.entries[at]
    if entry & COMPRESSED:
        return 0
    if entry & PARTIAL:
        return piece.bitmaps[at]
    if entry & ZERO:
        return ALL_ZERO
    return ALL_ALLOCATED if entry & OFFSET_MASK else 0


def set_entry(piece: L2Slice, at: int, entry: int, bitmap: int) -> None:
    """Give an entry, which is not of a compressed cluster, its place and its bitmap."""
    entry &= ~_MEMORY_FLAGS
    if bitmap == ALL_ZERO:
        entry |= ZERO
    elif bitmap != (ALL_ALLOCATED if entry & OFFSET_MASK else 0):
        entry |= PARTIAL
        piece.bitmaps[at] = bitmap
    piece.entries[at] = entry


def is_corrupt(entry: int, bitmap: int) -> bool:
    """Return whether an entry and its bitmap contradict each other or themselves."""
    allocated = bitmap & ALL_ALLOCATED
    return bool(allocated & bitmap >> SUBCLUSTERS or (allocated and not entry & OFFSET_MASK))


class SubclusterMap(ClusterMap):
    """The map of an image with extended L2 entries."""

    def __init__(self, file: MetadataFile, refcounts: Refcounts) -> None:
        super().__init__(file, refcounts)
        self.subcluster_bits = self.cluster_bits - SUBCLUSTER_BITS
        self.subcluster_size = 1 << self.subcluster_bits

    # Entries on disk and in memory

    def _in_memory(self, entries: array[int], bitmaps: array[int]) -> L2Slice:
        piece = L2Slice(entries)
        for at, bitmap in enumerate(bitmaps):
            entry = entries[at]
            if (entry or bitmap) and not entry & COMPRESSED:
                set_entry(piece, at, entry, bitmap)
        return piece

    def _on_disk(
        self, piece: L2Slice, first: int, entries: array[int]
    ) -> tuple[array[int], array[int]]:
        bitmaps = [entry_bitmap(piece, at) for at in range(first, first + len(entries))]
        plain = [e if e & COMPRESSED else e & ~_MEMORY_FLAGS for e in entries]
        return array("Q", plain), array("Q", bitmaps)

    # Looking up

    def find(self, offset: int, length: int, *, in_place: bool = False) -> int:
        """Return where a range lies in the file, as for standard entries.

        A range in a cluster that is not wholly allocated is found if it is in that cluster alone.
        """
        host = super().find(offset, length, in_place=in_place)
        if host >= 0:
            return host
        piece, at = self._slices.get(offset >> self.slice_shift), self._index(offset)
        within = offset & (self.cluster_size - 1)
        if piece is None or length <= 0 or within + length > self.cluster_size:
            return -1
        entry = piece.entries[at]
        if entry & COMPRESSED or not entry & PARTIAL or (in_place and not entry & COPIED):
            return -1
        mask = self._mask(offset, offset + length)
        host = entry & OFFSET_MASK
        if piece.bitmaps[at] & (mask | mask << SUBCLUSTERS) != mask:
            return -1
        return host + within if host and not host % self.cluster_size else -1

    def _index(self, offset: int) -> int:
        return offset >> self.cluster_bits & self._slice_mask

    def _mask(self, start: int, end: int) -> int:
        """Return the bits of the subclusters that a range in one cluster touches."""
        cluster = start & -self.cluster_size
        first = (start - cluster) >> self.subcluster_bits
        stop = ((end - 1 - cluster) >> self.subcluster_bits) + 1
        return (1 << stop) - (1 << first)

    def _decode(self, piece: L2Slice, start: int, stop: int) -> Iterator[Run]:
        for run in super()._decode(piece, start, stop):
            partial = piece.entries[self._index(run.offset)] & PARTIAL
            if partial and run.kind is not Kind.COMPRESSED:
                yield from self._split(piece, run)
            else:
                yield run

    def _split(self, piece: L2Slice, run: Run) -> Iterator[Run]:
        """Yield what the bitmaps say of clusters in a row that are ``PARTIAL``."""
        offset, size = run.offset, self.cluster_size
        while offset < run.end:
            cluster = offset & -size
            stop = min(run.end, cluster + size)
            bitmap = piece.bitmaps[self._index(offset)]
            for kind, first, last in _pieces(bitmap, has_place=bool(run.host)):
                start = max(offset, cluster + (first << self.subcluster_bits))
                end = min(stop, cluster + (last << self.subcluster_bits))
                if start < end:
                    host = run.host + start - run.offset if run.host else 0
                    yield Run(kind, start, end - start, host)
            offset = stop

    def is_plain(self, run: Run) -> bool:
        """Return whether ``check`` has nothing to find."""
        if run.kind is Kind.UNALLOCATED:
            return not run.host or not (run.host ^ run.offset) & (self.cluster_size - 1)
        return super().is_plain(run)

    async def check(self, run: Run) -> None:
        """Raise ``OSError(EIO)``, and mark the image, if an entry cannot be as it is."""
        if run.kind is Kind.INVALID:
            raise await self._invalid(run.offset)
        await super().check(run)

    async def _invalid(self, offset: int) -> OSError:
        table, index = self._l2_place(offset)
        return await self.file.corruption(
            f"Invalid cluster entry found  (L2 offset: {table:#x}, L2 index: {index:#x})"
        )

    def reads_as_zeroes(self, start: int, end: int, *, backed: bool) -> bool:
        """Return whether it is known, without waiting, that a range of one cluster is zero."""
        entry = self.entry(start)
        if entry is None or entry & COMPRESSED or not entry & PARTIAL:
            return super().reads_as_zeroes(start, end, backed=backed)
        bitmap = self._slices[start >> self.slice_shift].bitmaps[self._index(start)]
        mask = self._mask(start, end)
        return bitmap >> SUBCLUSTERS & mask == mask or not (backed or bitmap & mask)

    # Changing

    async def covered(self, start: int, end: int) -> tuple[int, int]:
        """Return the range that a write of ``[start, end)`` fills; its L2 tables exist.

        Raises ``OSError(EIO)``, and marks the image, if an entry of the range is corrupt.
        """
        for offset in range(start & -self.cluster_size, end, self.cluster_size):
            entry, bitmap = await self._known(offset)
            if entry & PARTIAL and not entry & COMPRESSED and is_corrupt(entry, bitmap):
                raise await self._invalid(offset)
        return await self._covered_from(start), await self._covered_to(end)

    async def _known(self, offset: int) -> tuple[int, int]:
        piece, at = await self.load(offset >> self.slice_shift), self._index(offset)
        return piece.entries[at], entry_bitmap(piece, at)

    async def _covered_from(self, start: int) -> int:
        entry, bitmap = await self._known(start)
        cluster, mask = start & -self.cluster_size, self._mask(start, start + 1)
        if entry & COMPRESSED:
            return cluster
        allocated = bitmap & ALL_ALLOCATED
        if entry & COPIED and entry & OFFSET_MASK:
            return start if allocated & mask else start & -self.subcluster_size
        lowest = allocated | mask
        return cluster + ((lowest & -lowest).bit_length() - 1 << self.subcluster_bits)

    async def _covered_to(self, end: int) -> int:
        entry, bitmap = await self._known(end - 1)
        cluster, mask = (end - 1) & -self.cluster_size, self._mask(end - 1, end)
        if entry & COMPRESSED:
            return cluster + self.cluster_size
        allocated = bitmap & ALL_ALLOCATED
        if entry & COPIED and entry & OFFSET_MASK:
            return end if allocated & mask else -(-end & -self.subcluster_size)
        return cluster + ((allocated | mask).bit_length() << self.subcluster_bits)

    def link(
        self,
        key: int,
        piece: L2Slice,
        first: int,
        end: int,
        host: int,
        *,
        written: tuple[int, int],
    ) -> None:
        """Let entries lead to the disk's own clusters, in which ``written`` is allocated now."""
        base = key << self.slice_shift
        kept: list[tuple[int, int]] = []
        for at in range(first, end):
            cluster = base + (at << self.cluster_bits)
            start = max(cluster, written[0])
            stop = min(cluster + self.cluster_size, written[1])
            if stop - start < self.cluster_size:
                mask = self._mask(start, stop) if start < stop else 0
                old = entry_bitmap(piece, at)
                kept.append((at, (old | mask) & ~(mask << SUBCLUSTERS)))
        super().link(key, piece, first, end, host, written=written)
        for at, bitmap in kept:
            set_entry(piece, at, piece.entries[at], bitmap)

    def zero_subclusters(self, key: int, piece: L2Slice, start: int, end: int) -> bool:
        """Let whole subclusters of one cluster read as zeroes, if it is not compressed."""
        at = self._index(start)
        entry = piece.entries[at]
        if entry & COMPRESSED:
            return False
        mask, old = self._mask(start, end), entry_bitmap(piece, at)
        bitmap = (old | mask << SUBCLUSTERS) & ~mask
        if bitmap != old:
            set_entry(piece, at, entry, bitmap)
            self.touch(key, piece, at, at + 1)
        return True


def _pieces(bitmap: int, *, has_place: bool) -> Iterator[tuple[Kind, int, int]]:
    """Yield ``(kind, first, stop)`` of the subclusters of a cluster that has a place or none."""
    data, zero = bitmap & ALL_ALLOCATED, bitmap >> SUBCLUSTERS
    at = 0
    while at < SUBCLUSTERS:
        is_data, is_zero = data >> at & 1, zero >> at & 1
        other = data ^ (ALL_ALLOCATED * is_data) | zero ^ (ALL_ALLOCATED * is_zero)
        other = other >> at | 1 << (SUBCLUSTERS - at)
        stop = at + (other & -other).bit_length() - 1
        if is_data:
            kind = Kind.NORMAL if has_place and not is_zero else Kind.INVALID
        elif is_zero:
            kind = Kind.ZERO_ALLOCATED if has_place else Kind.ZERO
        else:
            kind = Kind.UNALLOCATED
        yield kind, at, stop
        at = stop
