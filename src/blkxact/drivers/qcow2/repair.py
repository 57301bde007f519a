"""Repairs that go further than setting a count or a flag.

Invariants:

* New refcount structures are written past the end of the file, made durable, and only then does
  the header lead to them, in one write. The old ones are free then.
* A table is only written where the references say that it is one.

QEMU's counterpart: ``rebuild_refcount_structure``, ``fix_l2_entry_by_zero``.
"""

from __future__ import annotations

import errno
from array import array

from blkxact.errors import os_error

from . import refcount_widths as widths
from .image import Image
from .layout import MAX_REFCOUNT_TABLE_BYTES
from .metadata_guard import MetadataGuard
from .refcount_blocks import RefcountBlocks
from .reference_counts import ReferenceCounts
from .references import CheckResult, References


async def rebuild_refcounts(image: Image) -> None:
    """Write a new refcount table with new blocks (under the lock).

    Raises ``OSError``: ``EINVAL`` if a cluster has more references than its count can hold, and
    nothing has changed then.
    """
    references = References(image, CheckResult())
    await references.count_all(refcount_structures=False)
    counts = references.counts
    refcounts, bits = image.refcounts, image.cluster_bits
    start = counts.clusters
    table_clusters, indexes = _room(counts, refcounts.per_block, bits)
    end = start + table_clusters + len(indexes)
    table = array("Q", bytes(table_clusters << bits))
    for number, index in enumerate(indexes):
        offset = (start + table_clusters + number) << bits
        table[index] = offset
        block = _block(counts, index * refcounts.per_block, refcounts.per_block, start, end)
        if max(block) > widths.maximum(refcounts.order):
            raise os_error(errno.EINVAL)
        await image.file.child.pwrite(offset, _packed(refcounts.order, block))
    await image.file.write_table(start << bits, table)
    await image.file.barrier()
    await _switch(image, start << bits, table_clusters)


def _room(counts: ReferenceCounts, per_block: int, bits: int) -> tuple[int, list[int]]:
    """Return the clusters of the new table, and which blocks there must be.

    Table and blocks are contiguous past the end, and some blocks count these clusters themselves.
    """
    start = counts.clusters
    used = [
        index
        for index in range(-(-start // per_block))
        if any(counts.part(index * per_block, min(per_block, start - index * per_block)))
    ]
    table_clusters, blocks = 1, len(used)
    while True:
        end = start + table_clusters + blocks
        own = range(start // per_block, (end - 1) // per_block + 1)
        indexes = sorted({*used, *own})
        needed = -(-(indexes[-1] + 1) * 8 >> bits)
        if len(indexes) <= blocks and needed <= table_clusters:
            break
        blocks, table_clusters = max(blocks, len(indexes)), max(table_clusters, needed)
    if table_clusters << bits > MAX_REFCOUNT_TABLE_BYTES:
        raise os_error(errno.EFBIG)
    return table_clusters, indexes


def _block(counts: ReferenceCounts, first: int, number: int, start: int, end: int) -> array[int]:
    """Return the counts of a block's area, the new structures in ``[start, end)`` included."""
    known = max(0, min(number, counts.clusters - first))
    block = counts.part(first, known)
    block.extend([0] * (number - known))
    for cluster in range(max(start, first), min(end, first + number)):
        block[cluster - first] += 1
    return block


def _packed(order: int, block: array[int]) -> bytes:
    counts = widths.zero_counts(order, 0)
    counts.extend(block.tolist())
    return widths.pack(order, counts, 0, len(counts))[1]


async def _switch(image: Image, offset: int, clusters: int) -> None:
    header = image.header
    old = header.refcount_table_offset, header.refcount_table_clusters
    header.refcount_table_offset, header.refcount_table_clusters = offset, clusters
    try:
        await image.file.write_refcount_table_position()
        await image.file.barrier()
    except OSError:
        header.refcount_table_offset, header.refcount_table_clusters = old
        raise
    refcounts = image.refcounts
    refcounts.blocks = RefcountBlocks(image.file)
    refcounts.guard = MetadataGuard(image.cluster_bits)
    refcounts.released.clear()
    refcounts.released_clusters = refcounts.next_free = refcounts.free_byte = 0
    await refcounts.load()
    image.protect()


async def drop_misplaced_zeroes(image: Image, entries: list[tuple[int, bytes]]) -> int:
    """Take their impossible places from clusters without data; return how many there were."""
    for offset, entry in entries:
        await image.file.child.pwrite(offset, entry)
    await image.file.barrier()
    image.map.forget_clean()
    return len(entries)
