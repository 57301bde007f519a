"""Changing the size of the disk, and preallocation.

Growth makes room in the L1 table; what is added reads as zeroes. Shrinking frees the clusters
past the new end and cuts the file after the last cluster in use.

QEMU's counterpart: ``qcow2_co_truncate``, ``qcow2_grow_l1_table``, ``preallocate_co``.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from array import array

from blkxact.block.open_context import OpenContext
from blkxact.block.types import SECTOR
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error, strerror

from .bitmap_directory import BitmapDirectory
from .image import Image
from .layout import MAX_L1_BYTES, OFFSET_MASK, l1_size_for
from .metadata_guard import ACTIVE_L1
from .runs import Kind
from .unmap import Unmapper
from .writer import Writer

SIZE_AT = 24
"""Where the header holds the size of the disk."""


async def resize(
    image: Image, writer: Writer, unmapper: Unmapper, length: int, prealloc: PreallocMode
) -> None:
    """Set the size of the disk; raises ``QmpError`` in QEMU's words."""
    check_resize(image, length, prealloc)
    held = await image.ranges.acquire(0, max(image.size, length) + 1, exclusive=True)
    try:
        if length < image.size:
            await _shrink(image, unmapper, length)
        else:
            await _grow(image, writer, length, prealloc)
    finally:
        image.ranges.release(held)


def check_bitmaps(bitmaps: BitmapDirectory, context: OpenContext) -> None:
    """Raise ``QmpError`` unless every bitmap in the image can follow the disk to a new size."""
    if bitmaps.entries and not bitmaps.loaded:
        raise QmpError(
            "Cannot resize qcow2 with persistent bitmaps that were not loaded into memory"
        )
    graph, name = context.env.graph, context.node_name
    if graph.find(name) is not None:
        for entry in bitmaps.entries:
            if entry.name not in bitmaps.doomed:
                _, bitmap = graph.find_bitmap(name, entry.name)
                bitmap.check()


def check_resize(image: Image, length: int, prealloc: PreallocMode) -> None:
    """Raise ``QmpError`` for a size or a mode that the image cannot have."""
    if PreallocMode.named(prealloc) is None:
        raise QmpError(f"Unsupported preallocation mode '{prealloc}'")
    if length % SECTOR:
        raise QmpError(f"The new size must be a multiple of {SECTOR}")
    if image.snapshots and image.header.version < 3:
        raise QmpError("Can't resize a v2 image which has snapshots")
    if length < image.size and prealloc != PreallocMode.OFF:
        raise QmpError("Preallocation can't be used for shrinking an image")


async def _truncate_data(
    image: Image, length: int, prealloc: PreallocMode = PreallocMode.OFF
) -> None:
    await image.data.truncate(length + image.data_shift, prealloc=prealloc)


async def _grow(image: Image, writer: Writer, length: int, prealloc: PreallocMode) -> None:
    old = image.size
    if image.header.data_file_raw and prealloc == PreallocMode.OFF:
        prealloc = PreallocMode.METADATA  # the tables must cover all that the file holds
    try:
        await _zero_rest_of_cluster(image, writer, old, length)
    except OSError as error:
        raise QmpError(f"Failed to zero out the new area: {strerror(error)}") from error
    async with image.lock:
        try:
            await _grow_l1(image, l1_size_for(image.header, length))
        except OSError as error:
            raise QmpError(f"Failed to grow the L1 table: {strerror(error)}") from error
        try:
            if prealloc == PreallocMode.OFF and image.has_data_file:
                await _truncate_data(image, length)
            if prealloc != PreallocMode.OFF:
                await _preallocate(image, writer, old, length, prealloc)
            await image.write_back()
        except OSError as error:
            raise QmpError(
                f"Failed to flush the preallocated area to disk: {strerror(error)}"
            ) from error
        await _write_size(image, length)


async def _grow_l1(image: Image, entries: int) -> None:
    """Move the L1 table to where ``entries`` have room (under the lock)."""
    header, bits = image.header, image.cluster_bits
    old_offset, old_size = header.l1_table_offset, header.l1_size
    if entries <= old_size:
        return
    if entries * 8 > MAX_L1_BYTES:
        raise os_error(errno.EFBIG)
    await image.write_back()
    await image.file.event(BlkdebugEvent.L1_GROW_ALLOC_TABLE)
    taken = await image.refcounts.allocate_contiguous(-(-entries * 8 >> bits), ACTIVE_L1)
    table = image.map.l1 + array("Q", bytes(8 * (entries - old_size)))
    offset = taken.first << bits
    try:
        await image.refcounts.write_dirty()
        await image.file.event(BlkdebugEvent.L1_GROW_WRITE_TABLE)
        await image.file.write_table(offset, table)
        await image.file.barrier()
        await image.file.event(BlkdebugEvent.L1_GROW_ACTIVATE_TABLE)
        header.l1_table_offset, header.l1_size = offset, entries
        await image.file.write_l1_position()
        await image.file.barrier()
    except OSError:
        header.l1_table_offset, header.l1_size = old_offset, old_size
        await image.refcounts.unallocate(taken.first, taken.clusters)
        raise
    image.map.l1 = table
    if old_size:
        image.refcounts.release(old_offset >> bits, -(-old_size * 8 >> bits))


async def _zero_rest_of_cluster(image: Image, writer: Writer, old: int, length: int) -> None:
    """Zero what an earlier, longer disk may have left past the old end."""
    end = min(image.round_up(old), length)
    if old < end:
        if image.header.data_file_raw:
            await image.data.pwrite_zeroes(old + image.data_shift, end - old)
        for run in await image.runs(old, end - old):
            if run.kind in (Kind.NORMAL, Kind.COMPRESSED):
                await writer.write_held(run.offset, bytes(run.length))


async def _preallocate(
    image: Image, writer: Writer, old: int, length: int, prealloc: PreallocMode
) -> None:
    """Give every unallocated cluster of the new part a place, one L2 table at a time."""
    start, end = old & -image.cluster_size, image.round_up(length)
    file_end = 0
    step = 1 << image.map.table_shift
    while start < end:
        stop = min(end, (start // step + 1) * step)
        for target in await writer.preallocate(start, stop):
            file_end = max(file_end, target.host + target.length)
            if image.has_data_file:
                continue
            if prealloc != PreallocMode.METADATA or not target.fresh:
                await _reach(image, file_end)  # not every node grows when it is written
                await image.file.child.pwrite_zeroes(target.host, target.length)
        await image.relieve()
        start = stop
    if image.has_data_file:
        if image.data.length < length + image.data_shift:
            mode = PreallocMode.OFF if prealloc == PreallocMode.METADATA else prealloc
            await _truncate_data(image, length, mode)
        return
    await _reach(image, file_end)


async def _reach(image: Image, file_end: int) -> None:
    """Lengthen the file to ``file_end`` if it is shorter."""
    if file_end > image.file.child.length:
        await image.file.child.truncate(file_end)


async def _write_size(image: Image, length: int) -> None:
    header, old = image.header, image.header.size
    header.size = length
    try:
        await image.file.child.pwrite(SIZE_AT, struct.pack(">Q", length))
        await image.file.barrier()
    except OSError as error:
        header.size = old
        raise QmpError(f"Failed to update the image size: {strerror(error)}") from error
    image.size = length


async def _shrink(image: Image, unmapper: Unmapper, length: int) -> None:
    async with image.lock:
        try:
            await unmapper.discard_locked(
                image.round_up(length), image.round_up(image.size), full=True
            )
        except OSError as error:
            raise QmpError(f"Failed to discard cropped clusters: {strerror(error)}") from error
        try:
            _drop_tables(image, l1_size_for(image.header, length))
            await image.write_back()
        except OSError as error:
            raise QmpError(
                f"Failed to reduce the number of L2 tables: {strerror(error)}"
            ) from error
        await _write_size(image, length)
        # The image is right with or without its tail.
        with contextlib.suppress(OSError, QmpError):
            await _cut_file(image)
        if image.has_data_file:
            await _truncate_data(image, length)


def _drop_tables(image: Image, first: int) -> None:
    """Take the L2 tables from ``first`` on out of the L1 table."""
    image.map.forget(first)
    for index in range(first, len(image.map.l1)):
        entry = image.map.l1[index] & OFFSET_MASK
        if entry:
            image.map.set_l1(index, 0)
            image.refcounts.release(entry >> image.cluster_bits)


async def _cut_file(image: Image) -> None:
    """Cut the file after the last cluster in use."""
    last = await image.refcounts.trim()
    await image.refcounts.write_dirty()
    end = (last + 1) << image.cluster_bits
    if end < image.file.child.length:
        await image.file.child.truncate(end)
        image.refcounts.end = last + 1
