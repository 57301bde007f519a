"""Internal snapshots: an L1 table kept aside, and a count of two on all that it leads to.

Invariants:

* A snapshot shares everything with the disk until one of them changes: counts are raised and the
  COPIED flags taken away, so the next write to a shared cluster or table goes elsewhere.
* Counts are raised before anything refers to the clusters twice, and lowered when nothing on disk
  does any more. One write of the header switches from the old state to the new one.
* Flags and counts are changed one after the other, so a crash in between leaves flags that disagree
  with the counts. The image is marked meanwhile (``unfinished``), and the next writer, or a repair,
  sets them right; data and snapshots are right at every moment.

QEMU's counterpart: ``block/qcow2-snapshot.c``, ``qcow2_update_snapshot_refcount``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from blkxact.block.internal_snapshots import InternalSnapshot
from blkxact.errors import QmpError, os_error

from .image import Image
from .layout import (
    COPIED,
    MAX_L1_BYTES,
    MAX_SNAPSHOTS,
    OFFSET_MASK,
    l1_size_for,
    validate_table,
)
from .layout_tables import MAX_SNAPSHOT_TABLE_BYTES, Snapshot, pack_snapshots
from .metadata_guard import ACTIVE_L1, ACTIVE_L2, INACTIVE_L1, SNAPSHOT_TABLE
from .shared_tables import clear_flags, drop_references, set_flags, take_references
from .unfinished import mark, unmark

MAX_NAME_BYTES = 255
"""Longest name that QEMU's tools can give."""


class Qcow2Snapshots:
    """The snapshots of one image. ``resized`` is called when the disk's size has changed."""

    def __init__(self, image: Image, resized: Callable[[], None]) -> None:
        self.image = image
        self._resized = resized

    @property
    def entries(self) -> list[Snapshot]:
        """The snapshots in the order of the table."""
        return self.image.snapshots

    async def create(
        self, name: str, *, date_us: int, vm_clock_nsec: int = 0, icount: int | None = None
    ) -> Snapshot:
        """Keep what the disk holds now; raises ``OSError``, and nothing has changed then."""
        image = self.image
        if image.has_data_file:
            raise os_error(errno.ENOTSUP)
        if len(image.snapshots) >= MAX_SNAPSHOTS:
            raise os_error(errno.EFBIG)
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise os_error(errno.ENAMETOOLONG)
        seconds, microseconds = divmod(date_us, 1_000_000)
        async with self._alone():
            table = image.map.l1[:]
            taken = await take_references(image, table)
            offset = 0
            try:
                offset = await self._write_l1(table, INACTIVE_L1)
                snapshot = Snapshot(
                    offset, len(table), self._next_id(), name, seconds, microseconds * 1000,
                    vm_clock_nsec, 0, image.size, icount,
                )  # fmt: skip
                await clear_flags(image, table)
                await self._clear_l1_flags()
                await self._switch([*image.snapshots, snapshot])
            except BaseException:
                await self._give_back(taken, offset, len(table))
                raise
            return snapshot

    async def delete(self, snapshot: InternalSnapshot) -> None:
        """Forget a snapshot; raises ``OSError``."""
        image = self.image
        found = self._own(snapshot)
        async with self._alone():
            table = await self._read_l1(found)
            await self._switch([other for other in image.snapshots if other is not found])
            await drop_references(image, table)
            self._release(found.l1_table_offset, found.l1_size * 8)
            await image.write_back()
            await set_flags(image)

    async def apply(self, snapshot: InternalSnapshot) -> None:
        """Make the disk hold, and be as long as, what it was then; raises ``OSError``."""
        image = self.image
        found = self._own(snapshot)
        size, needed = self._size(found)
        async with self._alone():
            table = await self._read_l1(found)
            taken = await take_references(image, table)
            offset, new = 0, array("Q", [entry & ~COPIED for entry in table])
            new.extend([0] * (needed - len(new)))
            try:
                offset = await self._write_l1(new, ACTIVE_L1)
                # The tables were another disk's once, and may still be flagged as its own.
                await clear_flags(image, table)
                gone = await self._switch_disk(offset, new, size)
            except BaseException:
                await self._give_back(taken, offset, len(new))
                raise
            # The disk is another from here on; a failure below leaks clusters and no more.
            self._resized()
            await drop_references(image, gone)
            await image.write_back()
            await set_flags(image)

    async def look_at(self, snapshot: InternalSnapshot) -> None:
        """Show a read-only image as it was then, until it is closed; raises ``OSError``."""
        image = self.image
        found = self._own(snapshot)
        assert not image.file.writable
        async with image.lock:
            size, needed = self._size(found)
            table = await self._read_l1(found)
            table.extend([0] * (needed - len(table)))
            image.map.forget_all()
            image.map.l1 = table
            image.size = size
        self._resized()

    # The table of snapshots

    def _own(self, snapshot: InternalSnapshot) -> Snapshot:
        """Return the snapshot, which is one of ``entries``, after a check of its place."""
        if self.image.has_data_file:
            raise os_error(errno.ENOTSUP)
        found = next(own for own in self.image.snapshots if own is snapshot)
        try:
            validate_table(
                self.image.header,
                "Snapshot L1 table",
                found.l1_table_offset,
                found.l1_size,
                limit=MAX_L1_BYTES,
            )
        except QmpError as error:
            raise os_error(errno.EINVAL) from error
        return found

    def _size(self, snapshot: Snapshot) -> tuple[int, int]:
        """Return bytes of the disk as it was, and the L1 entries that it needs."""
        image = self.image
        size = image.size if snapshot.disk_size is None else snapshot.disk_size
        needed = l1_size_for(image.header, size)
        if needed * 8 > MAX_L1_BYTES:
            raise os_error(errno.EFBIG)
        return size, needed

    def _next_id(self) -> str:
        numbers = (re.match(r"\s*(\d+)", snapshot.id) for snapshot in self.image.snapshots)
        return str(max((int(number[1]) for number in numbers if number), default=0) + 1)

    async def _switch(self, snapshots: list[Snapshot]) -> None:
        """Write a new table, and let the header lead to it."""
        image, header = self.image, self.image.header
        try:
            packed = pack_snapshots(snapshots, image.size)
        except QmpError as error:
            raise os_error(errno.EINVAL) from error
        if len(packed) > MAX_SNAPSHOT_TABLE_BYTES:
            raise os_error(errno.EFBIG)
        offset = 0
        if packed:
            offset = await self._take(len(packed), SNAPSHOT_TABLE)
        old = header.snapshots_offset, image.snapshots_bytes, header.snapshot_count
        try:
            if packed:
                await image.file.child.pwrite(offset, packed)
            await image.write_back()
            await image.file.barrier()
            header.snapshots_offset, header.snapshot_count = offset, len(snapshots)
            await image.file.write_snapshots_position()
        except OSError:
            header.snapshots_offset, _, header.snapshot_count = old
            if packed:
                await self._unallocate(offset, len(packed))
            raise
        image.snapshots, image.snapshots_bytes = snapshots, len(packed)
        self._release(old[0], old[1])
        await image.file.barrier()

    # The disk's tables

    async def _read_l1(self, snapshot: Snapshot) -> array[int]:
        return await self.image.file.read_table(snapshot.l1_table_offset, snapshot.l1_size)

    async def _write_l1(self, table: array[int], use: str) -> int:
        """Write an L1 table without flags to a new place; return where that is."""
        offset = await self._take(max(len(table), 1) * 8, use)
        try:
            plain = array("Q", [entry & ~COPIED for entry in table])
            await self.image.file.write_table(offset, plain)
            await self.image.write_back()
            await self.image.file.barrier()
        except BaseException:
            await self._unallocate(offset, max(len(table), 1) * 8)
            raise
        return offset

    async def _clear_l1_flags(self) -> None:
        cluster_map = self.image.map
        for index, entry in enumerate(cluster_map.l1):
            if entry & COPIED:
                cluster_map.set_l1(index, entry & ~COPIED)
        await self.image.write_back()

    async def _switch_disk(self, offset: int, table: array[int], size: int) -> array[int]:
        """Let the header lead to another L1 table and size; return the old table."""
        image, header = self.image, self.image.header
        old = header.l1_table_offset, header.l1_size, header.size
        header.l1_table_offset, header.l1_size, header.size = offset, len(table), size
        try:
            await image.file.write_disk_position()
            await image.file.barrier()
        except OSError:
            header.l1_table_offset, header.l1_size, header.size = old
            raise
        gone = image.map.l1
        image.map.forget_all()
        image.map.l1, image.size = table, size
        guard = image.refcounts.guard
        for entry in table:
            if entry & OFFSET_MASK:
                guard.add(ACTIVE_L2, (entry & OFFSET_MASK) >> image.cluster_bits)
        self._release(old[0], old[1] * 8)
        return gone

    # Clusters

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold up all requests, with nothing cached; the image is marked meanwhile."""
        image = self.image
        held = await image.ranges.acquire(0, 2**63 - 1, exclusive=True)
        try:
            async with image.lock:
                image.check_alive()
                await image.write_back()
                await mark(image)
                image.map.forget_clean()
                try:
                    yield
                except BaseException:
                    # If this fails too, the next who opens the image for writing repairs it.
                    with contextlib.suppress(OSError):
                        await set_flags(image)
                        await unmark(image)
                    raise
                await image.write_back()
                await unmark(image)
        finally:
            image.ranges.release(held)

    async def _take(self, length: int, use: str) -> int:
        bits = self.image.cluster_bits
        run = await self.image.refcounts.allocate_contiguous(-(-length >> bits), use)
        return run.first << bits

    async def _unallocate(self, offset: int, length: int) -> None:
        bits = self.image.cluster_bits
        await self.image.refcounts.unallocate(offset >> bits, -(-length >> bits))

    def _release(self, offset: int, length: int) -> None:
        if length:
            bits = self.image.cluster_bits
            self.image.refcounts.release(offset >> bits, -(-length >> bits))

    async def _give_back(self, taken: list[tuple[int, int]], offset: int, entries: int) -> None:
        """Undo what a failure left: the references and the L1 table that nothing leads to."""
        image = self.image
        for first, count in taken:
            await image.refcounts.change(first, count, -1)
        if offset:
            await self._unallocate(offset, max(entries, 1) * 8)
