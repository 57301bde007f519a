"""A node of the block graph: one open image, through which all its requests pass.

Invariants:

* Every request is counted while it is under way, so that a drain can wait for the last one.
* Writes, zeroes and discards are recorded in the node's dirty bitmaps when they end, also when they
  failed: part of the data may have been written.
* A request on a node that cannot be written fails with EPERM, one outside of what an image can be
  with EIO. Whether a request lies inside of *this* image is checked where it enters
  (``BlockBackend``); a read beyond the end gives zeroes, as a format above may expect.
* A flush with nothing written since the last one costs nothing; filters pass every flush on.

QEMU's counterpart: ``BlockDriverState`` and ``block/io.c``.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine, Mapping
from typing import Any

from blkxact.dirty.order import latest_first
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.runtime.points import Points
from blkxact.storage.api import Buffer, Payload, Runs

from .adapted_requests import AlignedRequests, SerialisedRequests, ZeroFallback, is_zero, renewed
from .child import NO_FLAGS
from .driver_api import BlockDriver
from .in_flight import InFlight
from .node_filename import node_filename
from .node_links import LinkedNode
from .range_lock import RangeLock
from .status import chain_status
from .types import MAX_LENGTH, ChildRole, Extent, WriteFlags


class BlockNode(InFlight, LinkedNode):  # its own is_idle and idle, not those of a parent
    """BlockDriverState. Made by ``blockdev``, linked by ``Graph``, served by ``driver``."""

    def __init__(
        self, node_name: str, options: Mapping[str, Any] | None = None, **opening: bool
    ) -> None:
        LinkedNode.__init__(self, node_name, **opening)
        InFlight.__init__(self)
        self.points = Points()
        self.options: Mapping[str, Any] = options or {}
        """What it was made from, as BlockdevOptions, without its children."""
        self.write_generation = 0
        self._flushed_generation = 0
        self._flushing: asyncio.Future[None] | None = None
        self._aligned: AlignedRequests | SerialisedRequests | None = None
        self.reads: RangeLock | None = None
        """The ranges that are being read, where somebody must know (``track_reads``)."""
        self._reads_are_plain = True
        """Reads inside of the disk go straight to the driver."""
        self.highest_write = 0
        """End of the farthest write (``wr_highest_offset``)."""

    def opened(self, driver: BlockDriver) -> None:
        """Serve requests with ``driver`` from now on."""
        self.driver = driver
        self.points = driver.context.env.graph.points
        self.is_open = True
        for section in self.sections:
            section.inform(self)
        self.refresh_limits()

    def refresh_limits(self) -> None:
        """Learn what the driver can do, which depends on what is below it."""
        self.driver.refresh_limits()
        plain = self.reads is None and self.copy_on_read is None
        self._reads_are_plain = plain and self.driver.request_alignment == 1
        self._aligned = renewed(self._aligned, self.driver)

    @property
    def filename(self) -> str:
        """The name by which the same image could be opened: a short one, or ``json:{...}``."""
        return node_filename(self) if self.is_open else ""

    # Persistent bitmaps

    async def load_bitmaps(self) -> None:
        """Take over the bitmaps that the image keeps; raises ``QmpError``."""
        for bitmap in await self.driver.load_bitmaps(self.bitmaps):
            assert bitmap.name is not None
            bitmap.enlist(self.bitmap_serials)
            self.bitmaps[bitmap.name] = bitmap

    async def store_bitmaps(self, *, closing: bool = False) -> None:
        """Keep the persistent bitmaps in the image (``BlockDriver.store_bitmaps``)."""
        stored = latest_first(bitmap for bitmap in self.bitmaps.values() if bitmap.stored)
        if stored and self.is_writable:
            await self.driver.store_bitmaps(stored, closing=closing)
        elif not all(bitmap.read_only or bitmap.inconsistent for bitmap in stored):
            raise QmpError("Lost persistent bitmaps: No write access")

    # Requests

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes; raises ``OSError``."""
        driver = self.driver
        if offset < 0 or length < 0 or offset + length > MAX_LENGTH:
            raise os_error(errno.EIO)
        self.in_flight += 1
        try:
            if self.points.listening:
                await self._pass("read", offset=offset, length=length)
            if self._reads_are_plain and offset + length <= driver.length:
                return await driver.pread(offset, length)
            if self.reads is None:
                return await self._pread_slow(offset, length)
            async with self.reads.shared(offset, offset + length):
                return await self._pread_slow(offset, length)
        finally:
            self.in_flight -= 1
            if self._idle_waiters and not self.in_flight:
                self._wake()

    async def _pread_slow(self, offset: int, length: int) -> Buffer:
        """Read what may be misaligned, or goes beyond the end, where there are zeroes."""
        inside = max(0, min(length, self.driver.length - offset))
        data: Buffer = b""
        if inside:
            if self.copy_on_read is not None:
                await self.copy_on_read(offset, inside)
            reader = self._aligned or self.driver
            data = await reader.pread(offset, inside)
        return data if inside == length else b"".join((data, bytes(length - inside)))

    def track_reads(self) -> None:
        """Note reads and queries of extents in ``reads`` from now on; no extent has a ``file``.

        For a node whose backing file changes under it: who changes it waits for readers, so that
        they find the old bytes there or the copy of them here.
        """
        if self.reads is None:
            self.reads = RangeLock()
            self._reads_are_plain = False

    def serialise_writes(self) -> SerialisedRequests:
        """Let writes wait for copies into this layer (``copy_on_read``) from now on."""
        if not isinstance(self._aligned, SerialisedRequests):
            self._aligned = SerialisedRequests(self.driver, self._aligned)
        return self._aligned

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = NO_FLAGS, *, grow: bool = False
    ) -> None:
        """Write all of ``payload``; with ``grow`` also beyond the end. Raises ``OSError``."""
        driver = self.driver
        length = len(payload)
        self._check_write(driver, offset, offset + length, grow=grow)
        if self.detect_zeroes != "off" and is_zero(payload):
            unmap = WriteFlags.MAY_UNMAP if self.detect_zeroes == "unmap" else NO_FLAGS
            await self.pwrite_zeroes(offset, length, flags | unmap, grow=grow)
            return
        if flags is not NO_FLAGS or driver.has_debug_events:
            await self._pwrite_slow(offset, payload, flags)
            return
        self.in_flight += 1
        try:
            if self.points.listening:
                await self._pass("write", offset=offset, length=length)
            await (self._aligned or driver).pwrite(offset, payload, NO_FLAGS)
        finally:
            self._written(offset, length)
            self.in_flight -= 1
            if self._idle_waiters and not self.in_flight:
                self._wake()

    async def _pwrite_slow(self, offset: int, payload: Payload, flags: WriteFlags) -> None:
        """Write with events around it, or durably."""
        driver = self.driver
        if flags & WriteFlags.COMPRESSED and not driver.supports_compressed_writes:
            raise os_error(errno.ENOTSUP)
        self.in_flight += 1
        try:
            try:
                if self.points.listening:
                    await self._pass("write", offset=offset, length=len(payload))
                if driver.has_debug_events:
                    await driver.debug_event(BlkdebugEvent.PWRITEV)
                await (self._aligned or driver).pwrite(offset, payload, self._passed_on(flags))
            finally:
                self._written(offset, len(payload))
                if driver.has_debug_events:
                    await driver.debug_event(BlkdebugEvent.PWRITEV_DONE)
            if flags & WriteFlags.FUA and not driver.supports_fua:
                await self.flush()
        finally:
            self.end_request()

    async def pwrite_runs(self, runs: Runs, *, grow: bool = False) -> None:
        """Write several payloads as if by ``pwrite``; they are in order and do not overlap.

        A failure (``OSError``) leaves open which of them were written.
        """
        driver = self.driver
        one_by_one = self.detect_zeroes != "off" or driver.has_debug_events or self.points.listening
        if one_by_one or self._aligned:
            for offset, payload in runs:
                await self.pwrite(offset, payload, grow=grow)
            return
        last, payload = runs[-1]
        self._check_write(driver, runs[0][0], last + len(payload), grow=grow)
        self.in_flight += 1
        try:
            await driver.pwrite_runs(runs)
        finally:
            recording = self.bitmaps or self.job_bitmaps
            for offset, payload in runs if recording else runs[-1:]:
                self._written(offset, len(payload))
            self.end_request()

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = NO_FLAGS, *, grow: bool = False
    ) -> None:
        """Make the range read as zeroes. Raises ``OSError``."""
        driver = self.driver
        self._check_write(driver, offset, offset + length, grow=grow)
        self.in_flight += 1
        try:
            try:
                if self.points.listening:
                    await self._pass("write-zeroes", offset=offset, length=length)
                if driver.has_debug_events:
                    await driver.debug_event(BlkdebugEvent.PWRITEV_ZERO)
                writer = self._aligned or ZeroFallback(driver)
                await writer.pwrite_zeroes(offset, length, self._passed_on(flags))
            finally:
                self._written(offset, length)
                if driver.has_debug_events:
                    await driver.debug_event(BlkdebugEvent.PWRITEV_DONE)
            if flags & WriteFlags.FUA and not driver.supports_fua:
                await self.flush()
        finally:
            self.end_request()

    async def pdiscard(self, offset: int, length: int) -> None:
        """Forget the range, if the node's ``discard`` option says so. Raises ``OSError``."""
        driver = self.driver
        if offset < 0 or length < 0 or offset + length > MAX_LENGTH:
            raise os_error(errno.EIO)
        if self.bitmaps and any(bitmap.read_only for bitmap in self.bitmaps.values()):
            raise os_error(errno.EPERM)
        if not self.discard:
            return
        if driver.read_only or driver.inactive:
            raise os_error(errno.EPERM)
        inside = min(length, max(0, self.length - offset))
        if self.write_threshold:
            self.write_threshold.check(self, offset + length)
        self.in_flight += 1
        try:
            if self.points.listening:
                await self._pass("discard", offset=offset, length=length)
            if inside:
                discarder = self._aligned or driver
                await discarder.pdiscard(offset, inside)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
        finally:
            self._written(offset, inside, discarded=True)
            self.end_request()

    def _pass(self, request: str, **facts: int) -> Coroutine[Any, Any, None]:
        return self.points.reach(f"request.{request}", node=self.address, **facts)

    def _passed_on(self, flags: WriteFlags) -> WriteFlags:
        return flags if self.driver.supports_fua else flags & ~WriteFlags.FUA

    def _check_write(self, driver: BlockDriver, offset: int, end: int, *, grow: bool) -> None:
        if offset < 0 or end < offset or end > MAX_LENGTH:
            raise os_error(errno.EIO)
        if driver.read_only or driver.inactive:
            raise os_error(errno.EPERM)
        if not grow and end > driver.length and end > self.length:
            raise os_error(errno.EIO)
        if self.bitmaps:
            for bitmap in self.bitmaps.values():
                if bitmap.read_only:
                    raise os_error(errno.EPERM)
        if self.write_threshold:
            self.write_threshold.check(self, end + -end % driver.request_alignment)

    def _written(self, offset: int, length: int, *, discarded: bool = False) -> None:
        """Note that a write of the range has ended, well or not."""
        self.write_generation += 1
        if self._aligned:
            offset, length = self._aligned.widen(offset, length)
        end = offset + length
        self.highest_write = max(self.highest_write, 0 if discarded else end)
        if self.bitmaps or self.job_bitmaps:
            for bitmap in (*self.bitmaps.values(), *self.job_bitmaps):
                if end > bitmap.size:
                    bitmap.resize(max(self.length, bitmap.size))
                    length = max(0, min(end, bitmap.size) - offset)
                bitmap.record_write(offset, length)

    async def flush(self) -> None:
        """Return when all that was written before is durable. Raises ``OSError``."""
        while self._flushing:
            await asyncio.shield(self._flushing)
        generation = self.write_generation
        # A filter may have come when there was something to flush below it already.
        clean = generation == self._flushed_generation and not self._flushes_below()
        if clean or not self.is_writable:
            return
        self.in_flight += 1
        self._flushing = asyncio.get_running_loop().create_future()
        try:
            if self.points.listening:
                await self._pass("flush")
            primary = self.child_in_role(ChildRole.PRIMARY)
            if primary and primary.wants_events:
                await primary.debug_event(BlkdebugEvent.FLUSH_TO_OS)
                await primary.debug_event(BlkdebugEvent.FLUSH_TO_DISK)
            unused = generation == self._flushed_generation  # a filter: nothing went through it
            await (primary if primary and unused else self.driver).flush()
            self._flushed_generation = generation
        finally:
            self._flushing.set_result(None)
            self._flushing = None
            self.end_request()

    def _flushes_below(self) -> bool:
        """Return whether a flush reaches the node below this filter, whoever wrote to it.

        A filter that was taken out of its chain has no node below any more.
        """
        primary = self.child_in_role(ChildRole.PRIMARY)
        if primary is None or not self.driver.is_filter:
            return False
        return primary.may_write_unchanged or self.driver.passes_flushes_on

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize the disk. Raises ``QmpError``, or ``OSError`` from below."""
        if length < 0:
            raise QmpError("Image size cannot be negative")
        if length > MAX_LENGTH:
            raise QmpError(f"offset({length}) exceeds maximum({MAX_LENGTH})")
        if not self.is_writable:
            raise QmpError("Image is read-only")
        self.in_flight += 1
        old_length = self.length
        try:
            if self.points.listening:
                await self._pass("truncate", size=length)
            await self.driver.truncate(length, prealloc=prealloc)
            await self._hide_backing(old_length)
        finally:
            self.write_generation += 1
            self.length_changed()
            self.end_request()

    def length_changed(self) -> None:
        """Let bitmaps and parents follow the length of the disk."""
        for bitmap in self.bitmaps.values():
            bitmap.resize(self.length)
        for edge in list(self.parents):
            edge.parent.resized()

    async def _hide_backing(self, old_length: int) -> None:
        """Zero the grown part where a longer backing file would show through."""
        backing = self.backing
        shown = min(self.length, backing.length) if backing else 0
        if shown > old_length:
            await ZeroFallback(self.driver).pwrite_zeroes(old_length, shown - old_length, NO_FLAGS)

    async def block_status(
        self,
        offset: int,
        length: int,
        *,
        base: BlockNode | None = None,
        bottom: BlockNode | None = None,
    ) -> list[Extent]:
        """Return extents that cover the range in order; see ``chain_status``."""
        if offset < 0 or length < 0:
            raise os_error(errno.EIO)
        self.in_flight += 1
        try:
            if self.points.listening:
                await self._pass("block-status", offset=offset, length=length)
            return await chain_status(self, offset, length, base=base, bottom=bottom)
        finally:
            self.end_request()

    async def layer_status(self, *ranges: tuple[int, int]) -> list[Extent]:
        """Return what this layer alone decides of ranges inside of the disk, in order.

        Of several ranges, what it does not decide may be left out.
        """
        asked = self._aligned or self.driver
        return await asked.block_status_of(ranges)
