"""Refcount blocks in memory, and the table of their offsets.

Invariants:

* Every count in a block may be on disk at any time (``refcounts`` sees to that), so a dirty block
  is written whenever its room is needed.
* The table's entry for a new block is written after the block and a barrier.
* All coroutines here run under the image's lock. A block is changed right after it was fetched:
  the next wait may put it out of memory.
"""

from __future__ import annotations

from array import array

from blkxact.enums import BlkdebugEvent

from . import refcount_widths as widths
from .layout import REFCOUNT_OFFSET_MASK
from .metadata_file import MetadataFile

CACHE_BYTES = 4 << 20
"""Most bytes of refcount blocks kept in memory (as they are on disk)."""
MIN_CACHED_BLOCKS = 8


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


class RefcountBlocks:
    """The blocks of one image."""

    def __init__(self, file: MetadataFile) -> None:
        self.file = file
        header = file.header
        self.order = header.refcount_order
        self.cluster_bits = header.cluster_bits
        self.per_block = 1 << (self.cluster_bits + 3 - self.order)
        self.table: array[int] = array("Q")
        self._table_dirty: set[int] = set()
        self._blocks: dict[int, RefcountBlock] = {}
        self.max_blocks = max(MIN_CACHED_BLOCKS, CACHE_BYTES >> self.cluster_bits)

    async def load_table(self) -> None:
        """Read the table; the header was validated."""
        header = self.file.header
        await self.file.event(BlkdebugEvent.REFTABLE_LOAD)
        entries = header.refcount_table_clusters << (self.cluster_bits - 3)
        self.table = await self.file.read_table(header.refcount_table_offset, entries)

    def has(self, index: int) -> bool:
        """Return whether there is a block; where there is none all counts are zero."""
        return index < len(self.table) and self.table[index] & REFCOUNT_OFFSET_MASK != 0

    def cached(self, index: int) -> RefcountBlock | None:
        """Return a block if it is in memory."""
        return self._blocks.get(index)

    async def get(self, index: int) -> RefcountBlock:
        """Return a block that exists, from memory or disk."""
        block = self._blocks.get(index)
        if block is not None:
            return block
        offset = self.table[index] & REFCOUNT_OFFSET_MASK
        if offset % (1 << self.cluster_bits):
            raise await self.file.corruption(
                f"Refblock offset {offset:#x} unaligned (reftable index: {index:#x})"
            )
        await self.file.event(BlkdebugEvent.REFBLOCK_LOAD)
        data = await self.file.child.pread(offset, 1 << self.cluster_bits)
        return await self.keep(index, RefcountBlock(widths.unpack(self.order, data), offset))

    def new(self, offset: int) -> RefcountBlock:
        """Return a block of zeroes, all of which must be written."""
        block = RefcountBlock(widths.zero_counts(self.order, self.per_block), offset)
        block.touch(0, self.per_block)
        return block

    async def add(self, index: int, block: RefcountBlock) -> None:
        """Let the table lead to a new block."""
        await self.keep(index, block)
        self.table[index] = block.offset
        self._table_dirty.add(index)

    def drop(self, index: int) -> None:
        """Take a block out of the table."""
        self._blocks.pop(index, None)
        self.table[index] = 0
        self._table_dirty.add(index)

    async def keep(self, index: int, block: RefcountBlock) -> RefcountBlock:
        """Hold a block in memory; the one held longest makes room."""
        if len(self._blocks) >= self.max_blocks:
            oldest = next(iter(self._blocks))
            await self.write(self._blocks[oldest])
            del self._blocks[oldest]
        self._blocks[index] = block
        return block

    async def write(self, block: RefcountBlock) -> None:
        """Write what has changed in a block."""
        if block.low < block.high:
            at, data = widths.pack(self.order, block.counts, block.low, block.high)
            await self.file.event(BlkdebugEvent.REFBLOCK_UPDATE_PART)
            await self.file.child.pwrite(block.offset + at, data)
            block.low, block.high = len(block.counts), 0

    async def write_dirty(self) -> None:
        """Write the blocks that have changed, then the table's entries that lead to new ones."""
        for block in list(self._blocks.values()):
            await self.write(block)
        if self._table_dirty:
            await self.file.barrier()
            await self.file.event(BlkdebugEvent.REFBLOCK_ALLOC_HOOKUP)
            low, high = min(self._table_dirty), max(self._table_dirty) + 1
            offset = self.file.header.refcount_table_offset + low * 8
            await self.file.write_table(offset, self.table[low:high])
            self._table_dirty.clear()

    @property
    def is_dirty(self) -> bool:
        """Whether something must be written."""
        return bool(self._table_dirty) or any(
            block.low < block.high for block in self._blocks.values()
        )
