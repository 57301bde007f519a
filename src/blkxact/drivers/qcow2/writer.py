"""Writes to an image: the bytes first, then the tables that lead to them.

The way of a write that needs new clusters:

    hold the range alone → plan: make L2 tables writable, take clusters in bulk (lock)
      → write the bytes, with what surrounds them in the first and last cluster (no lock)
      → link: L2 entries in bulk, old clusters released (lock)

Invariants:

* A cluster gets into the map only when its bytes were written; a failure before that gives it back.
* A write into clusters that are all this disk's own touches no metadata and takes no lock.
* The payload is never looked at; it is cut where the file's runs end, and nowhere else.

QEMU's counterpart: ``qcow2_alloc_host_offset``, ``perform_cow``, ``qcow2_alloc_cluster_link_l2``.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterator

from blkxact.enums import BlkdebugEvent
from blkxact.storage.api import Buffer, FileRange, Payload, payload_slice

from . import compression
from .cluster_map import ClusterMap
from .image import Image
from .l2_slice import L2Slice
from .layout import COMPRESSED, COPIED, OFFSET_MASK, PARTIAL, ZERO, cluster_range

JOIN_LIMIT = 128 << 10
"""Bytes up to which a write and what surrounds it in its clusters go out in one piece."""

ReadDisk = Callable[[int, int], Awaitable[Buffer]]


class Target:
    """Clusters in a row, in the disk and in the file, that a write goes to."""

    __slots__ = ("fresh", "host", "length", "link", "new", "offset")

    def __init__(
        self,
        offset: int,
        length: int,
        host: int,
        *,
        new: bool = False,
        link: bool = False,
        fresh: bool = False,
    ) -> None:
        self.offset = offset
        """Of the disk."""
        self.length = length
        """What is filled: whole clusters or, at the ends of a write, whole subclusters."""
        self.host = host
        self.new = new
        """Taken for this write; given back if it fails."""
        self.link = link
        """The map must be changed when the bytes are there."""
        self.fresh = fresh
        """The clusters read as zeroes."""

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length

    def within(self, start: int, end: int) -> Target:
        """Return the target, cut to a range."""
        if start > self.offset:
            self.host += start - self.offset
            self.length -= start - self.offset
            self.offset = start
        self.length = min(self.length, end - self.offset)
        return self


def slice_parts(
    cluster_map: ClusterMap, offset: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(key, first, stop, offset)``: which entries of which slice make up a range."""
    shift, bits = cluster_map.slice_shift, cluster_map.cluster_bits
    while offset < end:
        key = offset >> shift
        stop = min(end, (key + 1) << shift)
        base = key << shift
        yield key, (offset - base) >> bits, (stop - base + (1 << bits) - 1) >> bits, offset
        offset = stop


class Writer:
    """Writes of one image. ``read_disk`` reads it as a guest would."""

    def __init__(self, image: Image, read_disk: ReadDisk) -> None:
        self.image = image
        self.map = image.map
        self._read_disk = read_disk

    async def write(self, offset: int, payload: Payload) -> None:
        """Write bytes that need new clusters or lie in several pieces."""
        image = self.image
        start = offset >> image.cluster_bits << image.cluster_bits
        end = image.round_up(offset + len(payload))
        held = await image.ranges.acquire(start, end, exclusive=True)
        try:
            await self.write_held(offset, payload)
        finally:
            image.ranges.release(held)

    async def write_held(self, offset: int, payload: Payload) -> None:
        """Write bytes; the caller holds the range of the clusters alone."""
        image = self.image
        async with image.lock:
            image.check_alive()
            targets = await self._plan(offset, offset + len(payload))
        try:
            await self._write_targets(targets, offset, payload)
            async with image.lock:
                image.check_alive()
                await self.link(targets)
                await image.relieve()
        except BaseException:
            async with image.lock:
                await self.give_back(targets)
            raise

    async def preallocate(self, start: int, stop: int) -> list[Target]:
        """Give the unallocated clusters of a range places (under the lock); return these."""
        plan = await self._plan(start, stop, in_a_row=True)
        targets = [target for target in plan if target.new]
        await self.link(targets, preallocated=True)
        return targets

    # Plan

    async def _plan(self, start: int, end: int, *, in_a_row: bool = False) -> list[Target]:
        """Return where a write of ``[start, end)`` goes, and what it must fill around it.

        All L2 tables come first, so that the clusters of a long write follow one another.
        """
        size = self.image.cluster_size
        for key, _, _, _ in slice_parts(self.map, start, end):
            if self.map.writable_now(key) is None:
                await self.map.writable(key)
        start, end = await self.map.covered(start, end)
        targets: list[Target] = []
        gap = start  # what is not yet planned
        try:
            for key, first, stop, _ in slice_parts(self.map, start, end):
                piece = self.map.writable_now(key) or await self.map.writable(key)
                entries = piece.entries
                base = key << self.map.slice_shift
                for begin, until in owned_runs(entries, first, stop, size):
                    await self._allocate(targets, gap, base + begin * size, in_a_row=in_a_row)
                    owned = self.owned(entries[begin], base + begin * size, until - begin)
                    targets.append((await self.checked(owned)).within(start, end))
                    gap = owned.end
            await self._allocate(targets, gap, end, in_a_row=in_a_row)
        except BaseException:
            await self.give_back(targets)
            raise
        return targets

    def owned(self, entry: int, offset: int, clusters: int) -> Target:
        """Return clusters that are this disk's own already."""
        length = clusters << self.image.cluster_bits
        return Target(offset, length, entry & OFFSET_MASK, link=bool(entry & (ZERO | PARTIAL)))

    def may_overwrite(self, host: int, length: int) -> bool:
        """Return whether a range of the file exists and holds no metadata."""
        if self.image.has_data_file:
            return True
        refcounts, bits = self.image.refcounts, self.image.cluster_bits
        first, end = host >> bits, ((host + length - 1) >> bits) + 1
        return end <= refcounts.end and refcounts.guard.overlap(first, end) is None

    async def checked(self, target: Target) -> Target:
        """Refuse to write where an entry cannot rightly lead."""
        if self.image.has_data_file:  # the map has looked at it already
            return target
        file, clusters = self.image.file, self.image.refcounts.end
        first = target.host >> self.image.cluster_bits
        end = (target.host + target.length) >> self.image.cluster_bits
        if target.host % self.image.cluster_size or not target.host:
            raise await file.corruption(
                f"Data cluster offset {target.host:#x} unaligned (guest offset: {target.offset:#x})"
            )
        # A file that ``raw`` cuts short has its clusters in use; the write fails below.
        if end > clusters and not await self.image.refcounts.all_used(first, end):
            raise await file.corruption(
                f"Data cluster offset {target.host:#x} is beyond the end of the file"
                f" (guest offset: {target.offset:#x})"
            )
        await self.image.refcounts.check_overlap(first, end)
        return target

    async def _allocate(
        self, targets: list[Target], offset: int, stop: int, *, in_a_row: bool
    ) -> None:
        bits, refcounts = self.image.cluster_bits, self.image.refcounts
        if offset >= stop:
            return
        if self.image.has_data_file:
            # What the file holds there is not known.
            host = offset + self.image.data_shift
            targets.append(Target(offset, stop - offset, host, new=True, link=True))
            return
        number, within = cluster_range(offset, stop - offset, bits)[1], offset & ((1 << bits) - 1)
        if in_a_row:
            runs = [await refcounts.allocate_contiguous(number)]
        else:
            runs = await refcounts.allocate(number)
        for run in runs:
            length = min((run.clusters << bits) - within, stop - offset)
            host = (run.first << bits) + within
            targets.append(Target(offset, length, host, new=True, link=True, fresh=run.fresh))
            offset, within = offset + length, 0

    # Bytes

    async def _write_targets(self, targets: list[Target], offset: int, payload: Payload) -> None:
        end = offset + len(payload)
        for target in targets:
            start, stop = max(target.offset, offset), min(target.end, end)
            part = payload_slice(payload, start - offset, stop - offset)
            host = target.host + start - target.offset
            if target.link and (start > target.offset or stop < target.end):
                await self._write_with_surroundings(target, start, stop, part)
            else:
                await self.image.data_event(BlkdebugEvent.WRITE_AIO)
                await self.image.data.pwrite(host, part)

    async def _write_with_surroundings(
        self, target: Target, start: int, stop: int, payload: Payload
    ) -> None:
        """Write a part of a target's clusters, and what the disk holds around it."""
        head = await self._surroundings(target, target.offset, start)
        tail = await self._surroundings(target, stop, target.end)
        child, host = self.image.data, target.host
        total = len(head or b"") + len(tail or b"") + len(payload)
        if total <= JOIN_LIMIT and not isinstance(payload, FileRange):
            await self.image.data_event(BlkdebugEvent.WRITE_AIO)
            begin = host if head is not None else host + start - target.offset
            await child.pwrite(begin, b"".join((head or b"", payload, tail or b"")))
            return
        if head is not None:
            await self.image.file.event(BlkdebugEvent.COW_WRITE)
            await child.pwrite(host, head)
        await self.image.data_event(BlkdebugEvent.WRITE_AIO)
        await child.pwrite(host + start - target.offset, payload)
        if tail is not None:
            await self.image.file.event(BlkdebugEvent.COW_WRITE)
            await child.pwrite(host + stop - target.offset, tail)

    async def _surroundings(self, target: Target, start: int, stop: int) -> Buffer | None:
        """Return what the disk holds there, or None if the file reads so already."""
        if self.image.has_data_file:  # it is not to become longer than the disk
            stop = max(start, min(stop, self.image.size))
        length = stop - start
        if length == 0:
            return None
        inside = max(0, min(stop, self.image.size) - start)
        data: Buffer = b""
        backed = self.image.backing is not None
        if inside and not self.map.reads_as_zeroes(start, stop, backed=backed):
            await self.image.file.event(BlkdebugEvent.COW_READ)
            data = await self._read_disk(start, inside)
        if target.fresh and is_zero(data):
            return None
        return data if len(data) == length else b"".join((data, bytes(length - len(data))))

    # Map

    async def link(self, targets: list[Target], *, preallocated: bool = False) -> None:
        """Let the map lead to the targets; what it led to before is released.

        Subclusters of ``preallocated`` clusters stay what they were.

        All slices are fetched first: from then on nothing waits and nothing can fail.
        """
        pieces: dict[int, L2Slice] = {}
        linked = [
            (target, part)
            for target in targets
            if target.link
            for part in slice_parts(self.map, target.offset, target.end)
        ]
        for _, (key, _, _, _) in linked:
            if key not in pieces:
                pieces[key] = self.map.writable_now(key) or await self.map.writable(key)
        for target, (key, first, stop, offset) in linked:
            piece = pieces[key]
            if target.new:
                self.release_entries(piece, first, stop)
            host = (target.host + offset - target.offset) & -self.image.cluster_size
            written = (0, 0) if preallocated else (target.offset, target.end)
            self.map.link(key, piece, first, stop, host, written=written)
        for target in targets:
            target.link = target.new = False

    def release_entries(self, piece: L2Slice, first: int, stop: int) -> None:
        """Drop the references that entries of a slice hold; they are about to be replaced."""
        old = piece.entries[first:stop]
        if any(old):
            for entry in old:
                self.release(entry)

    def release(self, entry: int, *, discard: bool = False) -> None:
        """Drop the reference that an L2 entry holds."""
        bits = self.image.cluster_bits
        host = entry & OFFSET_MASK
        if self.image.has_data_file:
            return
        if entry & COMPRESSED:
            first, count = compression.host_clusters(entry, bits)
            self.image.refcounts.release(first, count, discard=discard)
        elif host & (self.image.cluster_size - 1):
            self.image.file.report(f"Cannot free unaligned cluster {host:#x}", fatal=False)
        elif host:
            self.image.refcounts.release(host >> bits, discard=discard)

    async def give_back(self, targets: list[Target]) -> None:
        """Free the clusters that were taken and not linked (under the lock)."""
        bits = self.image.cluster_bits
        for target in targets:
            if target.new and not self.image.has_data_file:
                target.new = False
                first, number = cluster_range(target.host, target.length, bits)
                await self.image.refcounts.unallocate(first, number)


def owned_runs(
    entries: array[int], first: int, stop: int, cluster_size: int
) -> Iterator[tuple[int, int]]:
    """Yield ``(begin, until)``: entries whose clusters this disk may write, one after another."""
    while first < stop:
        begin, entry = first, entries[first]
        first += 1
        if entry & COPIED and entry & OFFSET_MASK and not entry & COMPRESSED:
            expected = entry + cluster_size
            while first < stop and entries[first] == expected:
                first += 1
                expected += cluster_size
            yield begin, first


def is_zero(data: Buffer) -> bool:
    """Return whether all bytes are zero."""
    # Comparing is ten times as fast as counting.
    return bytes(data) == bytes(len(data))
