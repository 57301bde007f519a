"""The references and flags of all that an L1 table leads to, changed as a whole.

Everything here runs under the image's lock, with no slice of a table in memory.

QEMU's counterpart: ``qcow2_update_snapshot_refcount`` in ``block/qcow2-refcount.c``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from . import compression
from .image import Image
from .layout import COMPRESSED, COPIED, OFFSET_MASK

ClusterRun = tuple[int, int]
"""First cluster and how many."""


async def take_references(image: Image, l1: array[int]) -> list[ClusterRun]:
    """Add a reference to every table and cluster that ``l1`` leads to; return what was taken.

    Raises ``OSError`` (``EINVAL``: a count cannot hold one more), with nothing taken.
    """
    taken: list[ClusterRun] = []
    try:
        for table in await _tables(image, l1):
            for first, count in await _reached(image, table):
                for part_first, part in _within_blocks(image, first, count):
                    await image.refcounts.change(part_first, part, 1)
                    taken.append((part_first, part))
    except BaseException:
        for first, count in taken:
            await image.refcounts.change(first, count, -1)
        raise
    return taken


async def drop_references(image: Image, l1: array[int]) -> None:
    """Drop a reference to every table and cluster that ``l1`` leads to.

    The counts fall with the next write-back: nothing on disk may lead from ``l1`` any more. Raises
    ``OSError``.
    """
    for table in await _tables(image, l1):
        for first, count in await _reached(image, table):
            image.refcounts.release(first, count)
        await image.relieve()


async def clear_flags(image: Image, l1: array[int]) -> None:
    """Take the COPIED flags from the L2 tables that ``l1`` leads to. Raises ``OSError``."""
    for table in await _tables(image, l1):
        entries, bitmaps = await _read_l2(image, table)
        cleared = array("Q", [entry & ~COPIED for entry in entries])
        if cleared != entries:
            await image.file.write_l2(table, cleared, bitmaps)


async def set_flags(image: Image) -> None:
    """Let the COPIED flags of the disk's tables say what the counts do. Raises ``OSError``."""
    await _tables(image, image.map.l1)
    for index, entry in enumerate(image.map.l1):
        table = entry & OFFSET_MASK
        if not table:
            continue
        entries, bitmaps = await _read_l2(image, table)
        flagged = array("Q", [await _with_flag(image, item) for item in entries])
        if flagged != entries:
            await image.file.write_l2(table, flagged, bitmaps)
        own = await image.refcounts.get(table >> image.cluster_bits) == 1
        wanted = table | COPIED if own else table
        if wanted != entry:
            image.map.set_l1(index, wanted)
    image.map.forget_clean()
    await image.write_back()


async def _with_flag(image: Image, entry: int) -> int:
    host = entry & OFFSET_MASK
    if not host or entry & COMPRESSED:
        return entry
    own = await image.refcounts.get(host >> image.cluster_bits) == 1
    return entry | COPIED if own else entry & ~COPIED


async def _tables(image: Image, l1: array[int]) -> list[int]:
    """Return where the L2 tables lie; raises ``OSError(EIO)`` for more than there can be."""
    tables = [entry & OFFSET_MASK for entry in l1 if entry & OFFSET_MASK]
    if len(tables) > image.refcounts.end:
        raise await image.file.corruption("L1 table leads to more L2 tables than the file can hold")
    return tables


async def _read_l2(image: Image, table: int) -> tuple[array[int], array[int]]:
    if table % image.cluster_size:
        raise await image.file.corruption(f"L2 table offset {table:#x} unaligned")
    return await image.file.read_l2(table, 1 << image.map.table_bits)


async def _reached(image: Image, table: int) -> list[ClusterRun]:
    """Return the runs of clusters that an L2 table leads to, and the table itself."""
    bits, size = image.cluster_bits, image.cluster_size
    runs: list[ClusterRun] = []
    for entry in (await _read_l2(image, table))[0]:
        if entry & COMPRESSED:
            runs.append(compression.host_clusters(entry, bits))
            continue
        host = entry & OFFSET_MASK
        if not host:
            continue
        if host % size:
            raise await image.file.corruption(f"Cluster allocation offset {host:#x} unaligned")
        first = host >> bits
        if runs and runs[-1][0] + runs[-1][1] == first:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((first, 1))
    runs.append((table >> bits, 1))
    for first, count in runs:
        if first + count > image.refcounts.end:
            raise await image.file.corruption(
                f"Cluster offset {first << bits:#x} is beyond the end of the file"
            )
    return runs


def _within_blocks(image: Image, first: int, count: int) -> Iterator[ClusterRun]:
    """Cut a run at the borders of refcount blocks, in which a change is all or nothing."""
    per_block = image.refcounts.per_block
    while count:
        part = min(count, per_block - first % per_block)
        yield first, part
        first, count = first + part, count - part
