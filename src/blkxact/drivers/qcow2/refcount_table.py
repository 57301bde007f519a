"""Growth of the refcount table: a larger one past the end, with the blocks that describe it.

The new table and its blocks are durable before the header leads to them, in one write.

QEMU's counterpart: ``qcow2_refcount_area``.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable

from blkxact.enums import BlkdebugEvent
from blkxact.errors import os_error

from . import refcount_widths as widths
from .layout import MAX_REFCOUNT_TABLE_BYTES
from .metadata_guard import REFCOUNT_BLOCK, REFCOUNT_TABLE, MetadataGuard
from .refcount_blocks import RefcountBlock, RefcountBlocks


def grown_table(entries: int, index: int, cluster_bits: int) -> int:
    """Return the number of entries, whole clusters, with which a table holds ``index``.

    It grows by at least half, so that repeated growth costs little.
    """
    in_cluster = 1 << (cluster_bits - 3)
    wanted = max(index + 1, entries + entries // 2)
    return -(-wanted // in_cluster) * in_cluster


def reach(first: int, size: int, per_block: int, cluster_bits: int) -> tuple[int, list[int]]:
    """Return the clusters of a table of ``size`` entries put at cluster ``first``, and the blocks.

    The blocks are right after the table and describe the table and themselves.
    """
    table_clusters = -(-size * 8 >> cluster_bits)
    blocks = 1
    while True:
        end = first + table_clusters + blocks
        indexes = list(range(first // per_block, (end - 1) // per_block + 1))
        if len(indexes) <= blocks:
            return table_clusters, indexes
        blocks = len(indexes)


async def move_table(
    blocks: RefcountBlocks,
    guard: MetadataGuard,
    release: Callable[[int, int], None],
    index: int,
    near: int,
) -> int:
    """Move the table to a larger place that holds ``index``; return the first cluster after it.

    ``release(first, clusters)`` is called for the place of the old table.

    The place is at cluster ``near`` or after it, beyond all that the old table describes. Raises
    ``OSError(EFBIG)`` if the table would be too large.
    """
    await blocks.file.event(BlkdebugEvent.REFTABLE_GROW)
    per_block, bits = blocks.per_block, blocks.cluster_bits
    old_size = len(blocks.table)
    first = max(near, old_size * per_block)
    size = grown_table(old_size, index, bits)
    table_clusters, indexes = reach(first, size, per_block, bits)
    while indexes[-1] >= size:
        size = grown_table(size, indexes[-1], bits)
        table_clusters, indexes = reach(first, size, per_block, bits)
    if size * 8 > MAX_REFCOUNT_TABLE_BYTES:
        raise os_error(errno.EFBIG)
    end = first + table_clusters + len(indexes)
    made: dict[int, RefcountBlock] = {}
    table = blocks.table + array("Q", bytes(8 * (size - old_size)))
    for number, block_index in enumerate(indexes):
        block = blocks.new((first + table_clusters + number) << bits)
        start = max(first - block_index * per_block, 0)
        stop = min(end - block_index * per_block, per_block)
        block.counts[start:stop] = widths.same_counts(blocks.order, 1, stop - start)
        made[block_index], table[block_index] = block, block.offset
    await guard.check(blocks.file, first, end)
    await _write(blocks, first, table, made)
    release(*await _switch(blocks, first, table, table_clusters))
    guard.add(REFCOUNT_TABLE, first, table_clusters)
    guard.add(REFCOUNT_BLOCK, first + table_clusters, len(indexes))
    for block_index, block in made.items():
        await blocks.keep(block_index, block)
    return end


async def _write(
    blocks: RefcountBlocks, first: int, table: array[int], made: dict[int, RefcountBlock]
) -> None:
    for block in made.values():
        await blocks.file.event(BlkdebugEvent.REFBLOCK_ALLOC_WRITE_BLOCKS)
        await blocks.write(block)
    # The new table leads to blocks that so far were in memory only.
    await blocks.write_dirty()
    await blocks.file.event(BlkdebugEvent.REFBLOCK_ALLOC_WRITE_TABLE)
    await blocks.file.write_table(first << blocks.cluster_bits, table)
    await blocks.file.barrier()


async def _switch(
    blocks: RefcountBlocks, first: int, table: array[int], table_clusters: int
) -> tuple[int, int]:
    """Let the header lead to the new table; return the clusters of the old: the first, how many."""
    header = blocks.file.header
    old = header.refcount_table_offset, header.refcount_table_clusters
    await blocks.file.event(BlkdebugEvent.REFBLOCK_ALLOC_SWITCH_TABLE)
    header.refcount_table_offset = first << blocks.cluster_bits
    header.refcount_table_clusters = table_clusters
    try:
        await blocks.file.write_refcount_table_position()
    except OSError:
        header.refcount_table_offset, header.refcount_table_clusters = old
        raise
    blocks.table = table
    return old[0] >> blocks.cluster_bits, old[1]
