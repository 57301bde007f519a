"""Finding out whether the references to each cluster agree with its reference count.

The references are counted anew from the header on, and compared. A count that is too high is a
leak; one that is too low, and a table that cannot be, is a corruption. Numbers and kinds are those
of ``qemu-img check``.

QEMU's counterpart: ``qcow2_check_refcounts``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from blkxact.errors import QmpError, strerror

from . import compression
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
    ZERO,
)
from .layout_tables import BITMAP_ENTRY_OFFSET, bitmap_table_entry_is_sane
from .reference_counts import ReferenceCounts

MAX_MESSAGES = 1000
"""Messages kept of one check; the numbers count on."""


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


async def check_image(
    image: Image, *, repair_leaks: bool = False, repair: bool = False
) -> CheckResult:
    """Check an image that nobody else uses; ``repair`` also sets counts and flags right.

    ``repair`` includes leaks. Raises ``OSError`` when a repair cannot be written.
    """
    async with image.lock:
        if image.file.writable:
            await image.write_back()
        checker = _Checker(image, repair_leaks=repair or repair_leaks, repair=repair)
        return await checker.run()


class _Checker:
    def __init__(self, image: Image, *, repair_leaks: bool, repair: bool) -> None:
        self.image = image
        self.repair_leaks = repair_leaks
        self.repair = repair
        self.result = CheckResult()
        self.bits = image.cluster_bits
        self.size = image.cluster_size
        file_clusters = -(-image.file.child.length >> self.bits)
        self.counts = ReferenceCounts(file_clusters, self._beyond_end)

    def _beyond_end(self, cluster: int) -> None:
        self.result.corruption(
            f"counting reference for region exceeding the end of the file by one cluster or more: "
            f"offset {cluster << self.bits:#x}"
        )

    async def run(self) -> CheckResult:
        image, result = self.image, self.result
        result.total_clusters = -(-image.size >> self.bits)
        self.counts.add(0)
        try:
            await self._check_l1(image.header.l1_table_offset, image.header.l1_size, active=True)
            await self._check_snapshots()
            self._add_bytes(
                image.header.refcount_table_offset,
                image.header.refcount_table_clusters << self.bits,
            )
            await self._check_bitmaps()
            self._check_refcount_blocks()
            await self._compare()
            await self._check_copied_flags()
        except OSError as error:
            result.check_errors += 1
            result.say(f"ERROR {strerror(error)}")
        if self.repair or self.repair_leaks:
            await image.write_back()
            await image.file.barrier()
        return result

    def _add_bytes(self, offset: int, length: int) -> None:
        if length:
            first = offset >> self.bits
            self.counts.add(first, ((offset + length - 1) >> self.bits) - first + 1)

    # Tables

    async def _check_l1(self, offset: int, entries: int, *, active: bool) -> None:
        if not entries:
            return
        self._add_bytes(offset, entries * 8)
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
            await self._check_l2(table, active=active)

    async def _check_l2(self, offset: int, *, active: bool) -> None:
        entries = await self.image.file.read_table(offset, self.size // 8)
        at, last, follows = 0, len(entries), 0
        while at < last:
            first, entry = at, entries[at]
            at += 1
            if not entry:
                continue
            if entry & COMPRESSED:
                self._check_compressed(entry, first, active=active)
                continue
            if entry & L2_RESERVED:
                self.result.corruption(f"found l2 entry with reserved bits set: {entry:x}")
            host = entry & OFFSET_MASK
            if not host:
                continue
            expected = entry + self.size
            while at < last and entries[at] == expected:
                at += 1
                expected += self.size
            self._check_run(entry, at - first, follows=follows, active=active)
            follows = host + (at - first) * self.size

    def _check_compressed(self, entry: int, index: int, *, active: bool) -> None:
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

    def _check_run(self, entry: int, number: int, *, follows: int, active: bool) -> None:
        """Check entries whose clusters are in a row; ``follows`` is where the last run ended."""
        host = entry & OFFSET_MASK
        if host % self.size:
            kind = "Preallocated" if entry & ZERO else "Data"
            for _ in range(number):
                self.result.corruption(
                    f"offset={host:x}: {kind} cluster is not properly aligned; L2 entry corrupted."
                )
        if active:
            self.result.allocated_clusters += number
            self.result.fragmented_clusters += bool(follows and follows != host)
        self._add_bytes(host, number * self.size)

    async def _check_snapshots(self) -> None:
        for snapshot in self.image.snapshots:
            name = f"snapshot {snapshot.id} ({snapshot.name})"
            if snapshot.l1_table_offset % self.size:
                self.result.corruption(f"{name}: L1 table is not cluster aligned")
            elif snapshot.l1_size * 8 > MAX_L1_BYTES:
                self.result.corruption(f"{name}: L1 table is too large")
            else:
                await self._check_l1(snapshot.l1_table_offset, snapshot.l1_size, active=False)
        self._add_bytes(self.image.header.snapshots_offset, self.image.snapshots_bytes)

    async def _check_bitmaps(self) -> None:
        place = self.image.header.bitmaps
        if place is None:
            return
        self._add_bytes(place.directory_offset, place.directory_size)
        directory = BitmapDirectory(self.image)
        try:
            await directory.load()
        except QmpError as error:
            self.result.corruption(error.desc)
            return
        for entry in directory.entries:
            self._add_bytes(entry.table_offset, entry.table_size * 8)
            for item in await self.image.file.read_table(entry.table_offset, entry.table_size):
                if not bitmap_table_entry_is_sane(item, self.size):
                    self.result.corruption(f"bitmap '{entry.name}': table entry {item:x}")
                elif item & BITMAP_ENTRY_OFFSET:
                    self._add_bytes(item & BITMAP_ENTRY_OFFSET, self.size)

    # Counts

    def _check_refcount_blocks(self) -> None:
        for index, entry in enumerate(self.image.refcounts.blocks.table):
            offset = entry & REFCOUNT_OFFSET_MASK
            if entry & REFCOUNT_RESERVED:
                self.result.corruption(f"refcount table entry {index} has reserved bits set")
            elif offset % self.size:
                self.result.corruption(
                    f"refcount block {index} is not cluster aligned; refcount table entry corrupted"
                )
            elif offset:
                self._add_bytes(offset, self.size)
                if self.counts.get(offset >> self.bits) != 1:
                    self.result.corruption(f"refcount block {index} is used for something else too")

    async def _compare(self) -> None:
        """Compare the counts on disk with the references found; block by block."""
        refcounts = self.image.refcounts
        per_block = refcounts.per_block
        highest = 0
        for index in range(-(-self.counts.clusters // per_block)):
            first = index * per_block
            number = min(per_block, self.counts.clusters - first)
            found = self.counts.part(first, number)
            stored = array("Q", bytes(8 * number))
            if refcounts.blocks.has(index):
                stored = array("Q", (await refcounts.blocks.get(index)).counts[:number])
            used = [at for at in range(number) if found[at] or stored[at]]
            highest = first + used[-1] if used else highest
            if found != stored:
                for at in used:
                    if found[at] != stored[at]:
                        await self._mismatch(first + at, stored[at], found[at])
        self.result.image_end_offset = (highest + 1) << self.bits

    async def _mismatch(self, cluster: int, stored: int, found: int) -> None:
        result = self.result
        leak = stored > found
        fix = self.repair_leaks if leak else self.repair
        word = "Repairing" if fix else "Leaked" if leak else "ERROR"
        result.say(f"{word} cluster {cluster} refcount={stored} reference={found}")
        if fix:
            await self.image.refcounts.set(cluster, found)
            if leak:
                result.leaks_fixed += 1
            else:
                result.corruptions_fixed += 1
        elif leak:
            result.leaks += 1
        else:
            result.corruptions += 1

    async def _check_copied_flags(self) -> None:
        """Compare the COPIED flags of the active tables with the counts."""
        image = self.image
        for index, entry in enumerate(image.map.l1):
            table = entry & OFFSET_MASK
            if not table or table % self.size:
                continue
            wanted = self._with_flag(entry, table)
            if wanted != entry:
                self._flag_mismatch("L2 table", entry)
                if self.repair:
                    image.map.set_l1(index, wanted)
            await self._check_l2_flags(table)

    async def _check_l2_flags(self, table: int) -> None:
        entries = await self.image.file.read_table(table, self.size // 8)
        changed = False
        for at, entry in enumerate(entries):
            host = entry & OFFSET_MASK
            if not entry or entry & COMPRESSED or not host or host % self.size:
                continue
            wanted = self._with_flag(entry, host)
            if wanted != entry:
                self._flag_mismatch("data cluster", entry)
                entries[at] = wanted
                changed = True
        if changed and self.repair:
            await self.image.file.write_table(table, entries)
            self.image.map.forget_clean()

    def _with_flag(self, entry: int, offset: int) -> int:
        single = self.counts.get(offset >> self.bits) == 1
        return entry | COPIED if single else entry & ~COPIED

    def _flag_mismatch(self, what: str, entry: int) -> None:
        if self.repair:
            self.result.corruptions_fixed += 1
            self.result.say(f"Repairing OFLAG_COPIED {what}: entry={entry:x}")
        else:
            self.result.corruption(f"OFLAG_COPIED {what}: entry={entry:x}")
