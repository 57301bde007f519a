"""Counting what refers to each cluster of an image, from the header on.

What the tables say that cannot be is noted on the way; nothing is written.

QEMU's counterpart: ``calculate_refcounts`` in ``block/qcow2-refcount.c``; the kinds of errors and
their numbers are its.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass, field

from blkxact.errors import QmpError

from . import compression
from . import refcount_widths as widths
from .bitmap_directory import BitmapDirectory
from .image import Image
from .layout import (
    COMPRESSED,
    COPIED,
    L1_RESERVED,
    L2_RESERVED,
    MAX_L1_BYTES,
    OFFSET_MASK,
    REFCOUNT_OFFSET_MASK,
    REFCOUNT_RESERVED,
    SUBCLUSTERS,
    ZERO,
    cluster_range,
)
from .layout_tables import BITMAP_ENTRY_OFFSET, bitmap_table_entry_is_sane
from .reference_counts import ReferenceCounts
from .subclusters import ALL_ALLOCATED

MAX_MESSAGES = 1000
"""Messages kept of one check; the numbers count on."""
MAX_SURPLUS_TABLES = 64
"""L2 tables that one L1 table may lead to beyond those that the file has room for."""


@dataclass(slots=True)
class CheckResult:
    """ImageCheck of ``qemu-img check``, and what it prints."""

    leaks: int = 0
    corruptions: int = 0
    check_errors: int = 0
    leaks_fixed: int = 0
    corruptions_fixed: int = 0
    total_clusters: int = 0
    allocated_clusters: int = 0
    fragmented_clusters: int = 0
    compressed_clusters: int = 0
    image_end_offset: int = 0
    messages: list[str] = field(default_factory=list)

    def corruption(self, message: str) -> None:
        """Count a corruption."""
        self.corruptions += 1
        self.say(f"ERROR {message}")

    def say(self, message: str) -> None:
        """Keep a message, if they are not too many."""
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(message)


class References:
    """The references of one image. ``count_all`` fills ``counts`` and ``result``."""

    def __init__(self, image: Image, result: CheckResult) -> None:
        self.image = image
        self.result = result
        self.bits = image.cluster_bits
        self.size = image.cluster_size
        file_clusters = -(-image.file.child.length >> self.bits)
        self.counts = ReferenceCounts(
            file_clusters,
            self._beyond_end,
            maximum=widths.maximum(image.header.refcount_order),
            overflow=self._overflow,
        )
        self.broken_refcounts = False
        """The refcount table leads to what cannot be a block: only new ones can help."""
        self.lost_blocks = False
        """Refcount blocks lie where nothing can be read."""
        self.misplaced_zeroes: list[tuple[int, bytes]] = []
        """L2 entries of clusters without data whose place cannot be: where, and what is right."""

    def _beyond_end(self, cluster: int) -> None:
        self.result.corruption(
            f"counting reference for region exceeding the end of the file by one cluster or more: "
            f"offset {cluster << self.bits:#x}"
        )

    def _overflow(self, cluster: int) -> None:
        self.result.corruption(f"overflow cluster offset={cluster << self.bits:#x}")

    async def count_all(self, *, refcount_structures: bool = True) -> None:
        """Count; raises ``OSError`` if something cannot be read, ``QmpError`` for what is no table.

        Without ``refcount_structures`` the refcount table and its blocks are left out.
        """
        image = self.image
        self.counts.add(0)
        await self._count_l1(image.header.l1_table_offset, image.header.l1_size, active=True)
        await self._count_snapshots()
        await self._count_bitmaps()
        if refcount_structures:
            self._add_bytes(
                image.header.refcount_table_offset,
                image.header.refcount_table_clusters << self.bits,
            )
            self._count_refcount_blocks()

    def _add_bytes(self, offset: int, length: int) -> None:
        if length:
            self.counts.add(*cluster_range(offset, length, self.bits))

    # L1 and L2 tables

    async def _count_l1(self, offset: int, entries: int, *, active: bool) -> None:
        if not entries:
            return
        self._add_bytes(offset, entries * 8)
        walks = 0
        for entry in await self.image.file.read_table(offset, entries):
            if not entry:
                continue
            if entry & L1_RESERVED:
                self.result.corruption(f"found L1 entry with reserved bits set: {entry:x}")
            table = entry & OFFSET_MASK
            self._add_bytes(table, self.size)
            if table % self.size:
                self.result.corruption(
                    f"l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                )
            if table >> self.bits < self.counts.clusters:  # past the end there are zeroes
                walks += 1
                if walks > self.counts.clusters + MAX_SURPLUS_TABLES:
                    raise QmpError("The L1 table leads to more L2 tables than the file can hold")
                await self._count_l2(table, active=active)

    async def _count_l2(self, offset: int, *, active: bool) -> None:
        entries, bitmaps = await self.image.file.read_l2(offset, 1 << self.image.map.table_bits)
        if bitmaps:
            self._check_bitmaps(entries, bitmaps)
        last, follows = len(entries), 0
        used = [at for at, entry in enumerate(entries) if entry]
        at = 0
        for first in used:
            if first < at:  # part of a run
                continue
            entry, at = entries[first], first + 1
            if entry & COMPRESSED and self.image.has_data_file:
                self.result.corruption(
                    f"compressed cluster {first} with data file, entry={entry:#x}"
                )
                continue
            if entry & COMPRESSED:
                self._count_compressed(entry, first, active=active)
                continue
            if entry & L2_RESERVED:
                self.result.corruption(f"found l2 entry with reserved bits set: {entry:x}")
            host = entry & OFFSET_MASK
            if not host and not self._is_data_at_zero(entry):
                continue
            if host % self.size:
                self._misaligned(entry, offset, first, bitmaps)
            expected = entry + self.size
            # Each misaligned or overlong entry is an error of its own.
            while at < last and entries[at] == expected and self._is_sound(host, expected):
                at += 1
                expected += self.size
            self._count_run(host, at - first, follows=follows, active=active)
            follows = host + (at - first) * self.size

    def _is_data_at_zero(self, entry: int) -> bool:
        """Return whether an entry leads to the first cluster of a data file."""
        return self.image.has_data_file and bool(entry & COPIED) and not entry & ZERO

    def _is_sound(self, host: int, entry: int) -> bool:
        """Return whether an entry and the run from ``host`` on have nothing to report."""
        end = (entry & OFFSET_MASK) + self.size
        return (
            not host % self.size
            and not entry & L2_RESERVED
            and (self.image.has_data_file or end <= self.counts.clusters << self.bits)
        )

    def _check_bitmaps(self, entries: array[int], bitmaps: array[int]) -> None:
        for at, bitmap in enumerate(bitmaps):
            entry = entries[at]
            has_place = entry & OFFSET_MASK or self._is_data_at_zero(entry)
            if not bitmap:
                continue
            if entry & COMPRESSED:
                self.result.corruption(
                    f"compressed cluster {at} with non-zero subcluster allocation bitmap, "
                    f"entry={entry:#x}"
                )
                entries[at] = 0  # as in QEMU, what it leads to is not counted
            elif has_place and bitmap & ALL_ALLOCATED & bitmap >> SUBCLUSTERS:
                self.result.corruption(
                    f"offset={entry & OFFSET_MASK:x}: Allocated cluster has corrupted subcluster "
                    "allocation bitmap"
                )
            elif not has_place and bitmap & ALL_ALLOCATED:
                self.result.corruption("Unallocated cluster has non-zero subcluster allocation map")

    def _misaligned(self, entry: int, table: int, index: int, bitmaps: array[int]) -> None:
        kind = "Data"
        if bitmaps:
            bitmap = bitmaps[index]
            if not bitmap & ALL_ALLOCATED:
                kind = "Preallocated"
                self.misplaced_zeroes.append((table + index * 16, struct.pack(">QQ", 0, bitmap)))
        elif entry & ZERO:
            kind = "Preallocated"
            self.misplaced_zeroes.append((table + index * 8, struct.pack(">Q", ZERO)))
        self.result.corruption(
            f"offset={entry & OFFSET_MASK:x}: {kind} cluster is not properly aligned; "
            "L2 entry corrupted."
        )

    def _count_compressed(self, entry: int, index: int, *, active: bool) -> None:
        if entry & COPIED:
            self.result.corruption(
                f"coffset={compression.locate(entry, self.bits)[0]:#x}: copied flag must never be "
                f"set for compressed clusters (L2 index {index})"
            )
        self.counts.add(*compression.host_clusters(entry, self.bits))
        if active:
            self.result.allocated_clusters += 1
            self.result.compressed_clusters += 1
            self.result.fragmented_clusters += 1

    def _count_run(self, host: int, number: int, *, follows: int, active: bool) -> None:
        """Count clusters in a row; ``follows`` is where the last run ended."""
        if active:
            self.result.allocated_clusters += number
            self.result.fragmented_clusters += bool(follows and follows != host)
        if self.image.has_data_file:
            return
        self._add_bytes(host, number * self.size)

    # Other tables

    async def _count_snapshots(self) -> None:
        if self.image.has_data_file and self.image.snapshots:
            self.result.corruption(f"{len(self.image.snapshots)} snapshots in image with data file")
        for snapshot in self.image.snapshots:
            name = f"snapshot {snapshot.id} ({snapshot.name})"
            if snapshot.l1_table_offset % self.size:
                self.result.corruption(f"{name}: L1 table is not cluster aligned")
            elif snapshot.l1_size * 8 > MAX_L1_BYTES:
                self.result.corruption(f"{name}: L1 table is too large")
            else:
                await self._count_l1(snapshot.l1_table_offset, snapshot.l1_size, active=False)
        self._add_bytes(self.image.header.snapshots_offset, self.image.snapshots_bytes)

    async def _count_bitmaps(self) -> None:
        place = self.image.header.bitmaps
        if place is None:
            return
        self._add_bytes(place.directory_offset, place.directory_size)
        directory = BitmapDirectory(self.image)
        try:
            await directory.load()
        except QmpError as error:
            self.result.corruption(error.desc)
            raise
        for entry in directory.entries:
            self._add_bytes(entry.table_offset, entry.table_size * 8)
            table = await self.image.file.read_table(entry.table_offset, entry.table_size)
            self._count_bitmap(entry.name, table)

    def _count_bitmap(self, name: str, table: array[int]) -> None:
        for item in table:
            if not bitmap_table_entry_is_sane(item, self.size):
                self.result.corruption(f"bitmap '{os.fsdecode(name)}': table entry {item:x}")
            elif item & BITMAP_ENTRY_OFFSET:
                self._add_bytes(item & BITMAP_ENTRY_OFFSET, self.size)

    def _count_refcount_blocks(self) -> None:
        for index, entry in enumerate(self.image.refcounts.blocks.table):
            if not entry:
                continue
            offset = entry & REFCOUNT_OFFSET_MASK
            problem = ""
            if entry & REFCOUNT_RESERVED:
                problem = f"refcount table entry {index} has reserved bits set"
            elif offset % self.size:
                problem = f"refcount block {index} is not cluster aligned"
            elif offset >> self.bits >= self.counts.clusters:
                problem = ""
                self.lost_blocks = True
                self.result.corruption(f"refcount block {index} is outside image")
            elif offset and self.counts.get(offset >> self.bits):
                problem = f"refcount block {index} is used for something else too"
            elif offset:
                self._add_bytes(offset, self.size)
            if problem:
                self.result.corruption(problem)
                self.broken_refcounts = True
