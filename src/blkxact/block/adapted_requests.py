"""Requests that a driver cannot take as they are.

They are misaligned, or for zeroes that it cannot make, or must not overtake a copy into its layer.

Invariants:

* A driver with ``request_alignment`` sees only offsets and lengths that are multiples of it.
* A misaligned write reads, changes and writes whole units. While it does, no other write touches
  these units, or the bytes that were read would bring old data back.
* A serialised write shares its range with other writes, and with no copy (``copy_on_read``).

QEMU's counterpart: the padding and the serialising requests of ``block/io.c``.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from blkxact.enums import BlkdebugEvent
from blkxact.storage.api import Buffer, FileRange, Payload, payload_bytes

from .driver_api import BlockDriver
from .range_lock import RangeLock
from .types import Extent, WriteFlags

ZERO_CHUNK = 1 << 20
"""How many zeroes are written at a time where a driver cannot make them itself."""


class ZeroFallback:
    """Zeroes by a driver, or written as data where it cannot make them."""

    __slots__ = ("_driver",)

    def __init__(self, driver: BlockDriver) -> None:
        self._driver = driver

    async def pwrite_zeroes(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Make the range read as zeroes; raises ``OSError``."""
        try:
            await self._driver.pwrite_zeroes(offset, length, flags)
        except OSError as error:
            if error.errno != errno.ENOTSUP or flags & WriteFlags.NO_FALLBACK:
                raise
        else:
            return
        zeroes = memoryview(bytes(min(length, ZERO_CHUNK)))
        for start in range(offset, offset + length, ZERO_CHUNK):
            chunk = zeroes[: offset + length - start]
            await self._driver.pwrite(start, chunk, flags & ~WriteFlags.MAY_UNMAP)


class _Write(NamedTuple):
    start: int
    end: int
    exclusive: bool
    done: asyncio.Future[None]


class AlignedRequests:
    """Wraps a driver with ``request_alignment`` and takes any offset."""

    def __init__(self, driver: BlockDriver) -> None:
        self._driver = driver
        self._zeroes = ZeroFallback(driver)
        self._align = driver.request_alignment
        self._writes: list[_Write] = []

    def widen(self, offset: int, length: int) -> tuple[int, int]:
        """Return ``(offset, length)`` of the units that the range touches."""
        start = offset - offset % self._align
        end = -(-(offset + length) // self._align) * self._align
        return start, end - start

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read the units of the range and return the range."""
        start, whole = self.widen(offset, length)
        if whole == length:
            return await self._driver.pread(offset, length)
        data = await self._driver.pread(start, whole)
        return memoryview(data)[offset - start : offset - start + length]

    async def pwrite(self, offset: int, payload: Payload, flags: WriteFlags) -> None:
        """Write the payload; what shares its first and last unit is read and written again."""
        length = len(payload)
        if not length:
            return
        start, whole = self.widen(offset, length)
        write = await self._enter(start, start + whole, exclusive=whole != length)
        try:
            if whole != length:
                payload = await self._pad(offset, payload, start, start + whole)
            await self._driver.pwrite(start, payload, flags)
        finally:
            self._leave(write)

    async def pwrite_zeroes(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Zero whole units by the driver, and the rest of the range by writing."""
        end = offset + length
        first = min(end, -(-offset // self._align) * self._align)
        last = max(first, end - end % self._align)
        if flags & WriteFlags.NO_FALLBACK and (first != offset or last != end):
            raise OSError(errno.ENOTSUP, "misaligned")
        plain = flags & ~WriteFlags.MAY_UNMAP
        if offset < first:
            await self.pwrite(offset, bytes(first - offset), plain)
        if first < last:
            write = await self._enter(first, last, exclusive=False)
            try:
                await self._zeroes.pwrite_zeroes(first, last - first, flags)
            finally:
                self._leave(write)
        if last < end:
            await self.pwrite(last, bytes(end - last), plain)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard the whole units of the range."""
        first = -(-offset // self._align) * self._align
        last = (offset + length) - (offset + length) % self._align
        if first < last:
            await self._driver.pdiscard(first, last - first)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of the units, cut to the range."""
        start, whole = self.widen(offset, length)
        whole = min(whole, max(self._driver.length - start, length))
        extents = await self._driver.block_status(start, whole)
        return extents if whole == length else cut_extents(extents, offset, offset + length)

    async def block_status_of(self, ranges: Sequence[tuple[int, int]]) -> list[Extent]:
        """Return the extents of several ranges, each asked for by itself."""
        return [extent for one in ranges for extent in await self.block_status(*one)]

    async def _pad(self, offset: int, payload: Payload, start: int, end: int) -> Payload:
        """Return the payload with the bytes before and after it that complete its units."""
        head, tail = offset - start, end - offset - len(payload)
        parts = [await payload_bytes(payload)]
        if head:
            await self._event(BlkdebugEvent.PWRITEV_RMW_HEAD)
            parts.insert(0, memoryview(await self._driver.pread(start, self._align))[:head])
            await self._event(BlkdebugEvent.PWRITEV_RMW_AFTER_HEAD)
        if tail:
            await self._event(BlkdebugEvent.PWRITEV_RMW_TAIL)
            unit = await self._driver.pread(end - self._align, self._align)
            parts.append(memoryview(unit)[self._align - tail :])
            await self._event(BlkdebugEvent.PWRITEV_RMW_AFTER_TAIL)
        return b"".join(parts)

    async def _event(self, event: BlkdebugEvent) -> None:
        if self._driver.has_debug_events:
            await self._driver.debug_event(event)

    async def _enter(self, start: int, end: int, *, exclusive: bool) -> _Write:
        """Wait for the writes that this one must not meet, then take part."""
        while True:
            conflict = next(
                (
                    other
                    for other in self._writes
                    if other.start < end and start < other.end and (exclusive or other.exclusive)
                ),
                None,
            )
            if conflict is None:
                break
            await asyncio.shield(conflict.done)
        write = _Write(start, end, exclusive, asyncio.get_running_loop().create_future())
        self._writes.append(write)
        return write

    def _leave(self, write: _Write) -> None:
        self._writes = [other for other in self._writes if other is not write]
        write.done.set_result(None)


def cut_extents(extents: list[Extent], start: int, end: int) -> list[Extent]:
    """Return the parts of the extents between two positions."""
    parts = []
    for extent in extents:
        first, last = max(extent.offset, start), min(extent.offset + extent.length, end)
        if first < last:
            parts.append(
                extent._replace(
                    offset=first,
                    length=last - first,
                    file_offset=extent.file_offset + first - extent.offset if extent.file else 0,
                )
            )
    return parts


def is_zero(payload: Payload) -> bool:
    """Return whether the payload is known to be all zeroes; a file's range is not looked at."""
    if isinstance(payload, FileRange):
        return False
    view = memoryview(payload)
    # A look at a few bytes spares the long comparison for nearly all data.
    if not view or view[0] or view[-1] or view[len(view) // 2]:
        return False
    return bytes(view).count(0) == len(view)


class SerialisedRequests:
    """Wraps a driver, or what aligns its requests; writes hold their range."""

    def __init__(
        self, driver: BlockDriver, aligned: AlignedRequests | None, lock: RangeLock | None = None
    ) -> None:
        self.inner = aligned or driver
        self.zeroes = aligned or ZeroFallback(driver)
        self.lock = lock or RangeLock()
        self._aligned = aligned

    def widen(self, offset: int, length: int) -> tuple[int, int]:
        """Return ``(offset, length)`` of what a write of the range touches."""
        return self._aligned.widen(offset, length) if self._aligned else (offset, length)

    def pread(self, offset: int, length: int) -> Coroutine[Any, Any, Buffer]:
        """Read."""
        return self.inner.pread(offset, length)

    def block_status_of(
        self, ranges: Sequence[tuple[int, int]]
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the extents of the layer."""
        return self.inner.block_status_of(ranges)

    async def pwrite(self, offset: int, payload: Payload, flags: WriteFlags) -> None:
        """Write when no copy of the range is under way."""
        async with self.lock.shared(*self._range(offset, len(payload))):
            await self.inner.pwrite(offset, payload, flags)

    async def pwrite_zeroes(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Write zeroes when no copy of the range is under way."""
        async with self.lock.shared(*self._range(offset, length)):
            await self.zeroes.pwrite_zeroes(offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard when no copy of the range is under way."""
        async with self.lock.shared(*self._range(offset, length)):
            await self.inner.pdiscard(offset, length)

    def _range(self, offset: int, length: int) -> tuple[int, int]:
        start, size = self.widen(offset, length)
        return start, start + size


def renewed(
    old: AlignedRequests | SerialisedRequests | None, driver: BlockDriver
) -> AlignedRequests | SerialisedRequests | None:
    """Return the wrapper that a driver needs, whose alignment may have changed."""
    aligned = AlignedRequests(driver) if driver.request_alignment > 1 else None
    if isinstance(old, SerialisedRequests):
        return SerialisedRequests(driver, aligned, old.lock)
    return aligned
