"""Finding out whether the references to each cluster agree with its reference count.

The references are counted again (``references``) and compared with the counts on disk. A count that
is too high is a leak; one that is too low, and a table that cannot be, is a corruption. Numbers and
kinds are those of ``qemu-img check``. What can be repaired is repaired here and in ``repair``.

Invariants of repair:

* Leaks alone are repaired only where the refcount blocks can be trusted to be found at all.
* Counts are set right before flags and features say so, and every order leaves a valid image.

QEMU's counterpart: ``qcow2_check_refcounts``, ``qcow2_co_check``.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import AsyncIterator

from blkxact.errors import QmpError, os_error, strerror

from .image import Image, check_snapshot_table, read_snapshots
from .layout import COMPRESSED, COPIED, INCOMPATIBLE_CORRUPT, OFFSET_MASK
from .references import CheckResult, References
from .repair import drop_misplaced_zeroes, rebuild_refcounts
from .unfinished import is_marked, unmark

__all__ = ["CheckResult", "check_image"]


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
        self.repair_flags = False
        self.result = CheckResult()
        self.bits = image.cluster_bits
        self.size = image.cluster_size
        self.references = References(image, self.result)
        self.counts = self.references.counts

    async def run(self) -> CheckResult:
        self.result.total_clusters = -(-self.image.size >> self.bits)
        try:
            await self._load_snapshots()
            await self.references.count_all()
            if self.repair and self.references.misplaced_zeroes:
                await self._drop_misplaced_zeroes()
            await self._compare_and_repair()
            await self._check_copied_flags()
        except OSError as error:
            self.result.check_errors += 1
            self.result.say(f"ERROR {strerror(error)}")
        except QmpError as error:
            self.result.check_errors += 1
            self.result.say(f"ERROR {error.desc}")
        if self.repair_leaks and not self.result.check_errors:
            await self.image.write_back()
            await self.image.file.barrier()
            if not self.result.corruptions:
                await self._mark_sound()
        return self.result

    async def _load_snapshots(self) -> None:
        """Read the snapshot table, which an opening for a check leaves alone."""
        image = self.image
        if image.header.snapshot_count and not image.snapshots:
            check_snapshot_table(image.header)
            image.snapshots, image.snapshots_bytes = await read_snapshots(
                image.file.child, image.header
            )

    async def _mark_sound(self) -> None:
        header = self.image.header
        if header.incompatible & INCOMPATIBLE_CORRUPT or is_marked(header):
            header.incompatible &= ~INCOMPATIBLE_CORRUPT
            await unmark(self.image)

    async def _drop_misplaced_zeroes(self) -> None:
        """Take their impossible places from zero clusters; the disk reads the same."""
        dropped = await drop_misplaced_zeroes(self.image, self.references.misplaced_zeroes)
        fresh = CheckResult(messages=self.result.messages)
        fresh.total_clusters = self.result.total_clusters
        self.references = References(self.image, fresh)
        await self.references.count_all()
        fresh.corruptions_fixed = dropped
        self.counts, self.result = self.references.counts, fresh

    # Counts

    async def _compare_and_repair(self) -> None:
        references, found_corruptions = self.references, self.result.corruptions
        missing = await self._compare(repair=False)
        if not self.repair_leaks:
            return
        if self.repair and (references.broken_refcounts or references.lost_blocks):
            await self._rebuild()
        elif not self.repair and (references.broken_refcounts or missing):
            self.result.say("ERROR need to rebuild refcount structures")
            raise os_error(errno.EIO)
        elif self.result.leaks or self.result.corruptions > found_corruptions:
            self.result.leaks, self.result.corruptions = 0, found_corruptions
            await self._compare(repair=True)

    async def _rebuild(self) -> None:
        """Replace the refcount structures, and compare again with what is there then."""
        old = self.result
        old.say("Rebuilding refcount structure")
        await rebuild_refcounts(self.image)
        self.result = CheckResult(messages=old.messages)
        self.result.total_clusters = old.total_clusters
        self.references = References(self.image, self.result)
        self.counts = self.references.counts
        await self.references.count_all()
        await self._compare(repair=False)
        now = self.result
        now.corruptions_fixed = old.corruptions_fixed + max(0, old.corruptions - now.corruptions)
        now.leaks_fixed = max(0, old.leaks - now.leaks)

    async def _blocks(self) -> AsyncIterator[tuple[int, array[int], array[int]]]:
        """Yield ``(first cluster, references, counts on disk)`` of each block's area."""
        refcounts = self.image.refcounts
        per_block = refcounts.per_block
        for index in range(-(-self.counts.clusters // per_block)):
            first = index * per_block
            number = min(per_block, self.counts.clusters - first)
            found = self.counts.part(first, number)
            stored = array("Q", bytes(8 * number))
            if refcounts.blocks.has(index):
                try:
                    stored = array("Q", (await refcounts.blocks.get(index)).counts[:number])
                except OSError as error:
                    self._cannot_read(first, number, error)
                    continue
            yield first, found, stored

    def _cannot_read(self, first: int, number: int, error: OSError) -> None:
        """Note that the counts of some clusters cannot be known."""
        self.references.lost_blocks = True
        self.result.check_errors += number
        self.result.say(
            f"Can't get refcount for {number} clusters from {first} on: {strerror(error)}"
        )

    async def _compare(self, *, repair: bool) -> bool:
        """Compare the counts on disk with the references; return whether a used one is zero."""
        highest, missing = 0, False
        async for first, found, stored in self._blocks():
            used = [at for at in range(len(found)) if found[at] or stored[at]]
            highest = first + used[-1] if used else highest
            if found != stored:
                for at in used:
                    if found[at] != stored[at]:
                        missing |= stored[at] == 0
                        await self._mismatch(first + at, stored[at], found[at], repair=repair)
        self.result.image_end_offset = (highest + 1) << self.bits
        return missing

    async def _mismatch(self, cluster: int, stored: int, found: int, *, repair: bool) -> None:
        result = self.result
        leak = stored > found
        fix = repair and (self.repair_leaks if leak else self.repair)
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

    # Flags

    async def _check_copied_flags(self) -> None:
        """Compare the COPIED flags of the active tables with the counts."""
        image, result = self.image, self.result
        # With leaks alone to be repaired, only where nothing else is wrong.
        self.repair_flags = self.repair or (
            self.repair_leaks and not (result.corruptions or result.leaks)
        )
        for index, entry in enumerate(image.map.l1):
            table = entry & OFFSET_MASK
            if not table:
                continue
            wanted = await self._with_flag(entry, table)
            if wanted != entry:
                self._flag_mismatch("L2 table", entry)
                if self.repair_flags:
                    image.map.set_l1(index, wanted)
            await self._check_l2_flags(table)

    async def _check_l2_flags(self, table: int) -> None:
        if table >> self.bits >= self.counts.clusters:
            return
        entries, bitmaps = await self.image.file.read_l2(table, 1 << self.image.map.table_bits)
        changed = False
        sound = not (self.result.leaks or self.result.corruptions or self.result.check_errors)
        for at, entry in enumerate(entries):
            if not entry:
                continue
            host = entry & OFFSET_MASK
            if not host or entry & COMPRESSED:
                continue
            if sound and entry & COPIED and self.counts.get(host >> self.bits) == 1:
                continue
            if self.image.has_data_file:
                wanted = entry | COPIED
            else:
                wanted = await self._with_flag(entry, host)
            if wanted != entry:
                self._flag_mismatch("data cluster", entry)
                entries[at] = wanted
                changed = True
        if changed and self.repair_flags and not table % self.size:
            await self.image.file.write_l2(table, entries, bitmaps)
            self.image.map.forget_clean()

    async def _with_flag(self, entry: int, offset: int) -> int:
        cluster = offset >> self.bits
        result = self.result
        single = self.counts.get(cluster) == 1
        if result.leaks or result.corruptions or result.check_errors:
            try:
                single = await self.image.refcounts.get(cluster) == 1  # what applies is on disk
            except OSError:
                return entry  # that it cannot be read has been reported
        return entry | COPIED if single else entry & ~COPIED

    def _flag_mismatch(self, what: str, entry: int) -> None:
        if self.repair_flags:
            self.result.corruptions_fixed += 1
            self.result.say(f"Repairing OFLAG_COPIED {what}: entry={entry:x}")
        else:
            self.result.corruption(f"OFLAG_COPIED {what}: entry={entry:x}")
