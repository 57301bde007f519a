"""Where the disk's clusters lie in the file: the L1 table and a cache of pieces of L2 tables.

Invariants:

* An L2 table is read and kept in slices of at most 64 KiB. A slice is an array of entries in host
  byte order; ``[low, high)`` are the entries to be written back.
* Entries change only under the image's lock. Whoever has all slices of a range in memory may look
  at them at any time without it.
* A dirty slice is written only after a barrier that made refcounts and data durable (``Image``
  sees to that), the L1 table only after the L2 tables that it points at.
* Decisions are made by runs of clusters, not by single ones.

QEMU's counterpart: ``block/qcow2-cluster.c``, ``block/qcow2-cache.c``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from blkxact.enums import BlkdebugEvent

from .data_file import shift_in, shift_out
from .l2_slice import L2Slice
from .layout import COMPRESSED, COPIED, MAX_CLUSTER_OFFSET, OFFSET_MASK, ZERO
from .metadata_file import MetadataFile
from .metadata_guard import ACTIVE_L2
from .refcounts import Refcounts
from .runs import Kind, Run, append_run

SLICE_BYTES = 64 << 10
CACHE_BYTES = 32 << 20
"""Most bytes of L2 entries kept in memory: QEMU's default, 256 GiB of disk with 64 KiB clusters."""


class ClusterMap:
    """The L1 table and the cached slices of one image."""

    def __init__(self, file: MetadataFile, refcounts: Refcounts) -> None:
        self.file = file
        self.refcounts = refcounts
        header = file.header
        self.cluster_bits = header.cluster_bits
        self.cluster_size = header.cluster_size
        self.version = header.version
        self.l1: array[int] = array("Q")
        self.l1_low, self.l1_high = 0, 0
        self.entry_bits = header.l2_entry_bits
        self.table_bits = self.cluster_bits - self.entry_bits
        """An L2 table has ``1 << table_bits`` entries."""
        self.table_shift = self.cluster_bits + self.table_bits
        """An L2 table maps ``1 << table_shift`` bytes of the disk."""
        slice_bits = min(self.cluster_size, SLICE_BYTES).bit_length() - 1 - self.entry_bits
        self.slice_entries = 1 << slice_bits
        self.slice_shift = self.cluster_bits + slice_bits
        self._slice_mask = self.slice_entries - 1
        self.max_slices = max(2, CACHE_BYTES >> (slice_bits + self.entry_bits))
        self._slices: dict[int, L2Slice] = {}
        self._dirty: set[int] = set()
        # What a plain cluster's entry may not have: anything but COPIED and an aligned offset.
        self._odd = (2**64 - 1) & ~(COPIED | MAX_CLUSTER_OFFSET & -self.cluster_size)

    # Looking up

    def find(self, offset: int, length: int, *, in_place: bool = False) -> int:
        """Return where a range lies in the file, if that is known at once and is one piece.

        Returns -1 otherwise: the range is not wholly allocated, crosses slices, or is not cached.
        With ``in_place`` every cluster must belong to this disk alone.
        """
        piece = self._slices.get(offset >> self.slice_shift)
        if piece is None:
            return -1
        bits = self.cluster_bits
        entries = piece.entries
        at = offset >> bits & self._slice_mask
        entry = entries[at]
        if entry & self._odd or not entry & OFFSET_MASK or (in_place and not entry & COPIED):
            return -1
        within = offset & (self.cluster_size - 1)
        more = (within + length - 1) >> bits
        if more:
            if at + more > self._slice_mask:
                return -1
            expected = entry
            for following in entries[at + 1 : at + more + 1]:
                expected += self.cluster_size
                if following != expected:
                    return -1
        return (entry & OFFSET_MASK) + within

    def missing(self, offset: int, length: int) -> int | None:
        """Return the first slice of the range that must be loaded before ``runs``."""
        shift = self.slice_shift
        for key in range(offset >> shift, ((offset + length - 1) >> shift) + 1):
            if key not in self._slices and self._table_offset(key):
                return key
        return None

    def runs(self, offset: int, length: int) -> list[Run]:
        """Return the runs that cover a range; all its slices are in memory.

        A ``Kind`` is returned without a check of the entries: see ``check``.
        """
        runs: list[Run] = []
        end = offset + length
        for start, stop, piece in self._pieces(offset, end):
            if piece is None:
                append_run(runs, Run(Kind.UNALLOCATED, start, stop - start, 0))
                continue
            for run in self._decode(piece, start, stop):
                if runs and runs[-1][0] is run[0]:
                    append_run(runs, run)
                else:
                    runs.append(run)
        return runs

    def _pieces(self, offset: int, end: int) -> Iterator[tuple[int, int, L2Slice | None]]:
        """Yield ``(start, stop, slice)``; None is a range without an L2 table."""
        while offset < end:
            key = offset >> self.slice_shift
            piece = self._slices.get(key)
            if piece is None:
                table = offset >> self.table_shift
                while table < len(self.l1) and table << self.table_shift < end:
                    if self.l1[table] & OFFSET_MASK:
                        break
                    table += 1
                stop = min(end, table << self.table_shift)
                assert stop > offset, "a slice was not loaded"
            else:
                stop = min(end, (key + 1) << self.slice_shift)
            yield offset, stop, piece
            offset = stop

    def _decode(self, piece: L2Slice, start: int, stop: int) -> Iterator[Run]:
        """Yield the runs of ``[start, stop)``, which lies in one slice."""
        bits, size, entries = self.cluster_bits, self.cluster_size, piece.entries
        base = start >> self.slice_shift << self.slice_shift
        at = (start - base) >> bits
        last = (stop - base + size - 1) >> bits
        while at < last:
            run_start, entry = base + (at << bits), entries[at]
            at += 1
            host = entry & OFFSET_MASK
            if not entry & (COMPRESSED | ZERO):
                kind = Kind.NORMAL if host else Kind.UNALLOCATED
            elif entry & COMPRESSED:
                kind, host = Kind.COMPRESSED, entry
            else:
                kind = Kind.ZERO_ALLOCATED if host else Kind.ZERO
            if kind is not Kind.COMPRESSED:
                step = size if host else 0
                expected = entry + step
                while at < last and entries[at] == expected:
                    at += 1
                    expected += step
            if run_start < start:
                if host and kind is not Kind.COMPRESSED:
                    host += start - run_start
                run_start = start
            run_stop = base + (at << bits)
            yield Run(kind, run_start, min(run_stop, stop) - run_start, host)

    def is_plain(self, run: Run) -> bool:
        """Return whether ``check`` has nothing to find."""
        kind, offset, _, host = run
        if kind is Kind.UNALLOCATED:
            return True
        return kind is Kind.NORMAL and not (host ^ offset) & (self.cluster_size - 1)

    async def check(self, run: Run) -> None:
        """Raise ``OSError(EIO)``, and mark the image, if an entry cannot be as it is."""
        table, index = self._l2_place(run.offset)
        if run.kind in (Kind.ZERO, Kind.ZERO_ALLOCATED) and self.version < 3:
            raise await self.file.corruption(
                "Zero cluster entry found in pre-v3 image"
                f" (L2 offset: {table:#x}, L2 index: {index:#x})"
            )
        within = run.offset & (self.cluster_size - 1)
        if run.kind is not Kind.COMPRESSED and run.host and run.host % self.cluster_size != within:
            raise await self.file.corruption(
                f"Cluster allocation offset {run.host - within:#x} unaligned"
                f" (L2 offset: {table:#x}, L2 index: {index:#x})"
            )

    def _l2_place(self, offset: int) -> tuple[int, int]:
        """Return where the L2 table for an offset is, and the index in it."""
        table = self.l1[offset >> self.table_shift] & OFFSET_MASK
        within = offset & ((1 << self.table_shift) - 1)
        return table, within >> self.cluster_bits

    def reads_as_zeroes(self, start: int, end: int, *, backed: bool) -> bool:
        """Return whether it is known, without waiting, that a range of one cluster is zero."""
        del end
        entry = self.entry(start)
        if entry is None or entry & COMPRESSED:
            return False
        return bool(entry & ZERO) or (entry == 0 and not backed)

    # Slices

    def _table_offset(self, key: int) -> int:
        index = key << self.slice_shift >> self.table_shift
        return self.l1[index] & OFFSET_MASK if index < len(self.l1) else 0

    def _slice_offset(self, key: int) -> int:
        """Return where a slice lies in the file."""
        within = (key << self.slice_shift) & ((1 << self.table_shift) - 1)
        return self._table_offset(key) + (within >> self.cluster_bits << self.entry_bits)

    async def load(self, key: int) -> L2Slice:
        """Return a slice of an existing L2 table, from memory or disk (under the lock)."""
        piece = self._slices.get(key)
        if piece is None:
            table = self._table_offset(key)
            if table % self.cluster_size:
                index = key << self.slice_shift >> self.table_shift
                raise await self.file.corruption(
                    f"L2 table offset {table:#x} unaligned (L1 index: {index:#x})"
                )
            await self.file.event(BlkdebugEvent.L2_LOAD)
            entries, bitmaps = await self.file.read_l2(self._slice_offset(key), self.slice_entries)
            if self.file.header.has_data_file:
                await shift_in(self.file, entries, key << self.slice_shift, table)
            piece = await self._keep(key, self._in_memory(entries, bitmaps))
        return piece

    def _in_memory(self, entries: array[int], bitmaps: array[int]) -> L2Slice:
        """Return the slice of entries that were read."""
        del bitmaps
        return L2Slice(entries)

    def _on_disk(
        self, piece: L2Slice, first: int, entries: array[int]
    ) -> tuple[array[int], array[int]]:
        """Return ``entries`` of a slice, from ``first`` on, and their bitmaps, to be written."""
        del piece, first
        return entries, array("Q")

    async def _keep(self, key: int, piece: L2Slice) -> L2Slice:
        if len(self._slices) >= self.max_slices:
            clean = next((k for k in self._slices if k not in self._dirty), None)
            if clean is not None:
                del self._slices[clean]
        self._slices[key] = piece
        return piece

    @property
    def is_crowded(self) -> bool:
        """Whether so many slices are dirty that they should be written back."""
        return len(self._dirty) > self.max_slices // 2

    def writable_now(self, key: int) -> L2Slice | None:
        """Return what ``writable`` does, if that needs no waiting (under the lock)."""
        index = key << self.slice_shift >> self.table_shift
        return self._slices.get(key) if self.l1[index] & COPIED else None

    def entry(self, offset: int) -> int | None:
        """Return the L2 entry for an offset, if its slice is in memory."""
        piece = self._slices.get(offset >> self.slice_shift)
        return (
            None if piece is None else piece.entries[offset >> self.cluster_bits & self._slice_mask]
        )

    async def writable(self, key: int) -> L2Slice:
        """Return a slice whose L2 table exists and belongs to this disk alone (under the lock)."""
        index = key << self.slice_shift >> self.table_shift
        entry = self.l1[index]
        if entry & COPIED:
            return await self.load(key)
        if entry & OFFSET_MASK:
            await self.load(key)  # checks the offset
            await self._copy_table(index, entry & OFFSET_MASK)
            return await self.load(key)
        await self._new_table(index)
        if self.slice_shift != self.table_shift:
            return await self.load(key)
        piece = await self._keep(key, L2Slice(array("Q", bytes(8 * self.slice_entries))))
        self.touch(key, piece, 0, self.slice_entries)
        return piece

    async def _new_table(self, index: int) -> None:
        taken = await self.refcounts.allocate_contiguous(1, ACTIVE_L2)
        offset = taken.first << self.cluster_bits
        if self.slice_shift != self.table_shift or not taken.fresh:
            async with self.refcounts.given_back_on_failure(taken):
                await self.file.child.pwrite_zeroes(offset, self.cluster_size)
        self.set_l1(index, offset | COPIED)

    async def _copy_table(self, index: int, old: int) -> None:
        """Give the disk its own copy of an L2 table that it shares with a snapshot."""
        taken = await self.refcounts.allocate_contiguous(1, ACTIVE_L2)
        offset = taken.first << self.cluster_bits
        async with self.refcounts.given_back_on_failure(taken):
            await self.file.event(BlkdebugEvent.L2_ALLOC_COW_READ)
            data = await self.file.child.pread(old, self.cluster_size)
            await self.file.event(BlkdebugEvent.L2_ALLOC_WRITE)
            await self.file.child.pwrite(offset, data)
        self.set_l1(index, offset | COPIED)
        self.refcounts.release(old >> self.cluster_bits)

    async def covered(self, start: int, end: int) -> tuple[int, int]:
        """Return the range that a write of ``[start, end)`` fills: here, whole clusters."""
        return start & -self.cluster_size, -(-end & -self.cluster_size)

    def set_l1(self, index: int, entry: int) -> None:
        """Change an L1 entry; it is written with the next write-back."""
        self.l1[index] = entry
        if self.l1_low >= self.l1_high:
            self.l1_low, self.l1_high = index, index + 1
        else:
            self.l1_low = min(self.l1_low, index)
            self.l1_high = max(self.l1_high, index + 1)

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
        """Let the entries ``[first, end)`` lead to the disk's own clusters from ``host`` on.

        ``written`` is the range of the disk whose bytes are there.
        """
        del written
        start = host | COPIED
        if end - first == 1:
            piece.entries[first] = start
            self.touch(key, piece, first, end)
            return
        stop = start + ((end - first) << self.cluster_bits)
        piece.entries[first:end] = array("Q", range(start, stop, self.cluster_size))
        self.touch(key, piece, first, end)

    def link_compressed(self, key: int, piece: L2Slice, at: int, descriptor: int) -> None:
        """Let an entry lead to a compressed cluster, which is never flagged as the disk's own."""
        piece.entries[at] = descriptor
        self.touch(key, piece, at, at + 1)

    def touch(self, key: int, piece: L2Slice, first: int, end: int) -> None:
        """Note that the entries ``[first, end)`` of a slice have changed."""
        self._slices[key] = piece  # it may have made room for another since it was fetched
        piece.low = min(piece.low, first)
        piece.high = max(piece.high, end)
        self._dirty.add(key)

    def forget(self, first_table: int) -> None:
        """Drop the slices of the L2 tables from ``first_table`` on: they are no more."""
        first = first_table << self.table_shift >> self.slice_shift
        for key in [key for key in self._slices if key >= first]:
            del self._slices[key]
            self._dirty.discard(key)

    def forget_clean(self) -> None:
        """Drop the slices that are as on disk, or were before a repair wrote there."""
        self._slices = {key: self._slices[key] for key in self._dirty}

    def forget_all(self) -> None:
        """Drop everything that is cached, written or not."""
        self._slices.clear()
        self._dirty.clear()
        self.l1_low = self.l1_high = 0

    # Writing back

    @property
    def is_dirty(self) -> bool:
        """Whether slices or the L1 table must be written."""
        return bool(self._dirty) or self.l1_low < self.l1_high

    async def write_slices(self) -> None:
        """Write the dirty slices; a barrier came before."""
        for key in sorted(self._dirty):
            piece = self._slices[key]
            await self.file.event(BlkdebugEvent.L2_UPDATE)
            offset = self._slice_offset(key) + (piece.low << self.entry_bits)
            entries = piece.entries[piece.low : piece.high]
            entries, bitmaps = self._on_disk(piece, piece.low, entries)
            if self.file.header.has_data_file:
                entries = shift_out(entries, self.cluster_size)
            await self.file.write_l2(offset, entries, bitmaps)
            piece.low, piece.high = len(piece.entries), 0
            self._dirty.discard(key)

    async def write_l1(self) -> None:
        """Write the changed part of the L1 table; a barrier came before."""
        if self.l1_low < self.l1_high:
            await self.file.event(BlkdebugEvent.L1_UPDATE)
            offset = self.file.header.l1_table_offset + self.l1_low * 8
            await self.file.write_table(offset, self.l1[self.l1_low : self.l1_high])
            self.l1_low = self.l1_high = 0
