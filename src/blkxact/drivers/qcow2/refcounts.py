"""Who uses which cluster: allocation, reference counts, and their blocks in memory.

Laws:

* A count is raised in memory when a cluster is taken. What refers to the cluster is written later,
  after a barrier, so a crash can leave a count too high (a leak) but never too low.
* A count is lowered in two steps. ``release`` only notes it; ``apply_released`` does it when all
  that referred to the cluster is gone from stable storage. Until then the cluster is not reused.
* So a dirty refcount block may be written at any time.
* All coroutines here run under the image's lock.

A new refcount block lies in, or right behind, the area that it describes, so that growth of the
file needs no look at distant places.

QEMU's counterpart: ``block/qcow2-refcount.c``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from typing import NamedTuple

from . import refcount_widths as widths
from .layout import MAX_CLUSTER_OFFSET, MAX_REFCOUNT_TABLE_BYTES, REFCOUNT_OFFSET_MASK
from .metadata_file import MetadataFile
from .refcount_table import grown_table, reach

CACHE_BYTES = 4 << 20
"""Most bytes of refcount blocks kept in memory (as they are on disk)."""
MIN_CACHED_BLOCKS = 8


class Allocation(NamedTuple):
    """A run of clusters that was taken."""

    first: int
    clusters: int
    fresh: bool
    """It lies behind everything that was ever written, so it reads as zeroes."""


class Released(NamedTuple):
    """A run of clusters of which a reference is to be dropped."""

    first: int
    clusters: int
    discard: bool


class RefcountBlock:
    """One refcount block in memory; ``[low, high)`` are the counts to be written."""

    __slots__ = ("counts", "high", "low", "offset")

    def __init__(self, counts: array[int], offset: int) -> None:
        self.counts = counts
        self.offset = offset
        self.low = len(counts)
        self.high = 0

    def touch(self, first: int, end: int) -> None:
        """Note that counts have changed."""
        self.low = min(self.low, first)
        self.high = max(self.high, end)


class Refcounts:
    """The refcount table, its blocks, and the search for free clusters."""

    def __init__(self, file: MetadataFile) -> None:
        self.file = file
        header = file.header
        self.order = header.refcount_order
        self.cluster_bits = header.cluster_bits
        self.per_block = 1 << (self.cluster_bits + 3 - self.order)
        self.table: array[int] = array("Q")
        self.table_dirty: set[int] = set()
        self.released: list[Released] = []
        self.released_clusters = 0
        self.end = 0
        """Every cluster from here on was never written."""
        self.next_free = 0
        self._blocks: dict[int, RefcountBlock] = {}
        self._max_blocks = max(MIN_CACHED_BLOCKS, CACHE_BYTES >> self.cluster_bits)

    async def load(self) -> None:
        """Read the refcount table; the header was validated."""
        header = self.file.header
        await self.file.event("reftable_load")
        entries = header.refcount_table_clusters << (self.cluster_bits - 3)
        self.table = await self.file.read_table(header.refcount_table_offset, entries)
        self.end = -(-self.file.child.length >> self.cluster_bits)

    # Single counts

    async def get(self, cluster: int) -> int:
        """Return the reference count of a cluster."""
        index, at = divmod(cluster, self.per_block)
        if not self.has_block(index):
            return 0
        return (await self.block(index)).counts[at]

    async def change(self, first: int, count: int, delta: int) -> list[tuple[int, int]]:
        """Add ``delta`` to the counts of a run; return the runs that became free.

        Raises ``OSError(EINVAL)`` when a count cannot hold the sum. A count of zero stays zero when
        lowered: the image had lost it before, and a leak is all that can come of it.
        """
        freed: list[tuple[int, int]] = []
        for index, start, end in self._split(first, count):
            while delta > 0 and not self.has_block(index):
                await self._create_block(index, self.end)
            if self.has_block(index):
                block = await self.block(index)
                base = index * self.per_block
                parts = self._change_in_block(block, start, end, delta)
                freed += [(base + at, number) for at, number in parts]
        if freed:
            self.next_free = min(self.next_free, freed[0][0])
        return freed

    def _change_in_block(
        self, block: RefcountBlock, start: int, end: int, delta: int
    ) -> list[tuple[int, int]]:
        """Add ``delta`` to counts of one block, all or none; return the runs that became free."""
        old = block.counts[start:end]
        if delta == -1 and old == widths.same_counts(self.order, 1, end - start):
            block.counts[start:end] = widths.zero_counts(self.order, end - start)
            block.touch(start, end)
            return [(start, end - start)]
        values = [max(value + delta, 0) for value in old]
        if max(values) > widths.maximum(self.order):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        block.counts[start:end] = array(old.typecode, values)
        block.touch(start, end)
        return [(start + at, 1) for at, value in enumerate(values) if value == 0 and old[at] != 0]

    async def set(self, cluster: int, count: int) -> None:
        """Set one count, as a repair does."""
        index, at = divmod(cluster, self.per_block)
        while not self.has_block(index):
            await self._create_block(index, self.end)
        block = await self.block(index)
        block.counts[at] = count
        block.touch(at, at + 1)

    async def last_used(self) -> int:
        """Return the last cluster that is in use."""
        for index in reversed(range(len(self.table))):
            if self.has_block(index):
                counts = (await self.block(index)).counts
                used = len(counts.tobytes().rstrip(b"\0"))
                if used:
                    return index * self.per_block + (used - 1) // counts.itemsize
        return 0

    def _split(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """Cut a run at the borders of blocks: ``(block, start, end)`` within the block."""
        parts = []
        end = first + count
        while first < end:
            index, start = divmod(first, self.per_block)
            stop = min(self.per_block, start + end - first)
            parts.append((index, start, stop))
            first += stop - start
        return parts

    # Taking clusters

    async def allocate(self, count: int) -> list[Allocation]:
        """Take ``count`` clusters wherever they are free, in runs as long as can be."""
        await self.file.event("cluster_alloc")
        runs: list[Allocation] = []
        try:
            while count:
                first, number = await self._free_run(self.next_free, count)
                index, at = divmod(first, self.per_block)
                number = min(number, self.per_block - at)
                if not self.has_block(index):
                    await self._create_block(index, first)
                    continue
                runs.append(await self._take(first, number))
                self.next_free = first + number
                count -= number
        except BaseException:
            for run in runs:
                await self.unallocate(run.first, run.clusters)
            raise
        return _joined(runs)

    async def allocate_contiguous(self, count: int) -> Allocation:
        """Take ``count`` clusters in a row."""
        await self.file.event("cluster_alloc")
        start = self.next_free
        while True:
            first, number = await self._free_run(start, count)
            if number < count:
                start = first + number
                continue
            parts = self._split(first, count)
            missing = next((i for i, _, _ in parts if not self.has_block(i)), None)
            if missing is None:
                break
            await self._create_block(missing, first + count)
        if start == self.next_free:  # no smaller hole was passed by
            self.next_free = first + count
        return await self._take(first, count)

    async def _take(self, first: int, count: int) -> Allocation:
        """Set the counts of free clusters, whose blocks exist, to one."""
        if (first + count) << self.cluster_bits > MAX_CLUSTER_OFFSET:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        for index, start, end in self._split(first, count):
            block = await self.block(index)
            block.counts[start:end] = widths.same_counts(self.order, 1, end - start)
            block.touch(start, end)
        fresh = first >= self.end
        self.end = max(self.end, first + count)
        return Allocation(first, count, fresh)

    async def unallocate(self, first: int, count: int) -> None:
        """Give back clusters that nothing on disk refers to."""
        await self.change(first, count, -1)

    async def _free_run(self, start: int, limit: int) -> tuple[int, int]:
        """Return the first free run from ``start`` on and its length, at most ``limit``."""
        first, found = start, 0
        cluster = start
        while found < limit:
            index, at = divmod(cluster, self.per_block)
            if not self.has_block(index):
                found += min(self.per_block - at, limit - found)
                cluster = (index + 1) * self.per_block
                if index >= len(self.table):  # nothing but free clusters from here on
                    return first, limit
                continue
            counts = (await self.block(index)).counts
            if found == 0:
                at = widths.find_zero(counts, at)
                first = cluster = index * self.per_block + at
                if at == self.per_block:
                    continue
            number = widths.zero_run(counts, at, limit - found)
            found += number
            cluster += number
            if cluster % self.per_block and found < limit:
                break
            if number == 0:
                break
        return first, found

    # Dropping references

    def release(self, first: int, count: int = 1, *, discard: bool = False) -> None:
        """Drop one reference to each cluster of a run, once nothing on disk has it any more."""
        self.released_clusters += count
        if self.released:
            last = self.released[-1]
            if last.discard == discard and last.first + last.clusters == first:
                self.released[-1] = Released(last.first, last.clusters + count, discard)
                return
        self.released.append(Released(first, count, discard))

    async def apply_released(self) -> None:
        """Lower the counts of what was released; a barrier came before.

        What is done is taken from the list at once, so a failure in between repeats nothing.
        """
        while self.released:
            await self.file.event("cluster_free")
            run = self.released[-1]
            index, start, end = self._split(run.first, run.clusters)[-1]
            first, count = index * self.per_block + start, end - start
            freed = await self.change(first, count, -1)
            self.released.pop()
            if count < run.clusters:
                self.released.append(Released(run.first, run.clusters - count, run.discard))
            self.released_clusters -= count
            if run.discard:
                await self._discard(freed)

    async def _discard(self, runs: list[tuple[int, int]]) -> None:
        for first, count in runs:
            # A hint: an error changes nothing for the image.
            with contextlib.suppress(OSError):
                await self.file.child.pdiscard(
                    first << self.cluster_bits, count << self.cluster_bits
                )

    # Blocks

    def has_block(self, index: int) -> bool:
        """Return whether there is a block; where there is none all counts are zero."""
        return index < len(self.table) and self.table[index] & REFCOUNT_OFFSET_MASK != 0

    async def block(self, index: int) -> RefcountBlock:
        """Return a block that exists, from memory or disk."""
        block = self._blocks.get(index)
        if block is not None:
            return block
        offset = self.table[index] & REFCOUNT_OFFSET_MASK
        if offset % (1 << self.cluster_bits):
            raise await self.file.corruption(
                f"Refblock offset {offset:#x} unaligned (reftable index: {index:#x})"
            )
        await self.file.event("refblock_load")
        data = await self.file.child.pread(offset, 1 << self.cluster_bits)
        return await self._keep(index, RefcountBlock(widths.unpack(self.order, data), offset))

    async def _keep(self, index: int, block: RefcountBlock) -> RefcountBlock:
        if len(self._blocks) >= self._max_blocks:
            oldest = next(iter(self._blocks))
            await self._write_block(self._blocks[oldest])
            del self._blocks[oldest]
        self._blocks[index] = block
        return block

    async def _create_block(self, index: int, near: int) -> None:
        """Make a block for the area ``index``, in a free cluster at ``near`` or behind.

        Where that cluster has no block itself, that one is made instead: the caller looks again.
        """
        if index >= len(self.table):
            await self._grow_table(index, near)
            return
        await self.file.event("refblock_alloc")
        cluster, _ = await self._free_run(near, 1)
        home, at = divmod(cluster, self.per_block)
        if home >= len(self.table):
            await self._grow_table(home, cluster)
            return
        if home != index and not self.has_block(home):
            await self._create_block(home, cluster + 1)
            return
        counts = widths.zero_counts(self.order, self.per_block)
        block = RefcountBlock(counts, cluster << self.cluster_bits)
        block.touch(0, self.per_block)
        target = block if home == index else await self.block(home)
        target.counts[at] = 1
        target.touch(at, at + 1)
        await self._keep(index, block)
        self.table[index] = block.offset
        self.table_dirty.add(index)
        self.end = max(self.end, cluster + 1)

    async def _grow_table(self, index: int, near: int) -> None:
        """Move the refcount table to a larger place behind all that it describes so far."""
        await self.file.event("reftable_grow")
        first = max(near, len(self.table) * self.per_block)
        size = grown_table(len(self.table), index, self.cluster_bits)
        table_clusters, blocks = reach(first, size, self.per_block, self.cluster_bits)
        needed = blocks[-1] + 1
        if max(size, needed) * 8 > MAX_REFCOUNT_TABLE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if needed > size:
            size = grown_table(size, needed - 1, self.cluster_bits)
            table_clusters, blocks = reach(first, size, self.per_block, self.cluster_bits)
        await self._build_table(first, size, table_clusters, blocks)

    async def _build_table(
        self, first: int, size: int, table_clusters: int, blocks: list[int]
    ) -> None:
        """Write a larger table at ``first``, with blocks behind it that cover both; switch over."""
        header = self.file.header
        table = self.table + array("Q", bytes(8 * (size - len(self.table))))
        end = first + table_clusters + len(blocks)
        made: dict[int, RefcountBlock] = {}
        for number, index in enumerate(blocks):
            offset = (first + table_clusters + number) << self.cluster_bits
            block = RefcountBlock(widths.zero_counts(self.order, self.per_block), offset)
            start = max(first - index * self.per_block, 0)
            stop = min(end - index * self.per_block, self.per_block)
            block.counts[start:stop] = widths.same_counts(self.order, 1, stop - start)
            block.touch(0, self.per_block)
            made[index], table[index] = block, offset
        for block in made.values():
            await self._write_block(block)
        await self.write_dirty()
        await self.file.event("refblock_alloc_write_table")
        await self.file.write_table(first << self.cluster_bits, table)
        await self.file.barrier()
        old = header.refcount_table_offset >> self.cluster_bits, header.refcount_table_clusters
        await self.file.event("refblock_alloc_switch_table")
        header.refcount_table_offset = first << self.cluster_bits
        header.refcount_table_clusters = table_clusters
        try:
            await self.file.write_refcount_table_position()
        except OSError:
            header.refcount_table_offset = old[0] << self.cluster_bits
            header.refcount_table_clusters = old[1]
            raise
        self.table = table
        self.end = max(self.end, end)
        self.release(*old)
        for index, block in made.items():
            await self._keep(index, block)

    async def write_dirty(self) -> None:
        """Write the blocks that have changed, then the table's entries that lead to new ones."""
        for block in list(self._blocks.values()):
            await self._write_block(block)
        if not self.table_dirty:
            return
        await self.file.barrier()
        await self.file.event("refblock_alloc_hookup")
        low, high = min(self.table_dirty), max(self.table_dirty) + 1
        offset = self.file.header.refcount_table_offset + low * 8
        await self.file.write_table(offset, self.table[low:high])
        self.table_dirty.clear()

    async def _write_block(self, block: RefcountBlock) -> None:
        if block.low >= block.high:
            return
        at, data = widths.pack(self.order, block.counts, block.low, block.high)
        await self.file.event("refblock_update_part")
        await self.file.child.pwrite(block.offset + at, data)
        block.low, block.high = len(block.counts), 0

    @property
    def is_dirty(self) -> bool:
        """Whether something must be written."""
        return bool(self.released or self.table_dirty) or any(
            block.low < block.high for block in self._blocks.values()
        )


def _joined(runs: list[Allocation]) -> list[Allocation]:
    """Join runs that follow one another."""
    joined = runs[:1]
    for run in runs[1:]:
        last = joined[-1]
        if last.first + last.clusters == run.first and last.fresh == run.fresh:
            joined[-1] = Allocation(last.first, last.clusters + run.clusters, last.fresh)
        else:
            joined.append(run)
    return joined
