"""Requests of one NBD client, performed on an export.

Laws:

* A request that fails is answered with its errno; the client goes on.
* Zeroes are sent as holes where the map of the disk says so; a read of less than ``SPARSE_MIN``
  bytes is not worth a look at the map.
* Maps are looked up in windows, so neither the size of the disk nor the length that a client names
  decides how long others wait or how much memory it takes.

QEMU's counterpart: ``nbd/server.c`` (nbd_handle_request), whose words the errors are.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

from .bitmap import DirtyBitmap
from .block.child import NO_FLAGS
from .block.driver_api import Extent, Status, WriteFlags
from .block_export import BASE_CONTEXT, DEPTH_CONTEXT, BlockExport
from .nbd import replies
from .nbd.protocol import (
    COMMAND_NAMES,
    MAX_PAYLOAD,
    STATE_DIRTY,
    Command,
    CommandFlag,
    State,
)
from .nbd.request_stream import Request
from .storage.api import Buffer

SPARSE_MIN: Final = 32 << 10
"""Bytes from which on a read is sent with its holes."""
CACHE_PIECE: Final = 1 << 20
"""Bytes that CACHE reads at a time."""
FIRST_WINDOW: Final = 1 << 20
LAST_WINDOW: Final = 256 << 20
"""Bytes of the map that are looked up at a time; the window doubles."""
MAX_EXTENTS: Final = 16 << 10
"""Extents of one context in a reply; the client asks again for the rest."""
MAX_EXTENT: Final = (1 << 32) - 1

_FUA: Final = int(CommandFlag.FUA)
_DF: Final = int(CommandFlag.DF)
_FLAGS: Final = {
    Command.READ: CommandFlag.FUA | CommandFlag.DF,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.FUA | CommandFlag.REQ_ONE,
}
_WRITING: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES, Command.TRIM})
_LIMITED: Final = frozenset({Command.READ, Command.WRITE, Command.CACHE})

Reply = list[Buffer]
Runs = Iterator[tuple[int, int]]
"""Pairs of bytes and status that follow each other."""


class _Failed(Exception):  # noqa: N818 - it is the client's, not ours
    """A request cannot be done; ``code`` is an errno."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Transfer:
    """What one client may do with its export.

    ``contexts`` are the numbers of the metadata contexts that it has selected; ``structured``
    whether it understands structured replies.
    """

    def __init__(self, export: BlockExport, *, structured: bool, contexts: list[int]) -> None:
        self._export = export
        self._backend = export.backend
        self._size = export.size
        self._structured = structured
        self._contexts = contexts
        self._handlers: dict[int, tuple[Callable[[Request], Awaitable[Reply]], str]] = {
            Command.READ: (self._read, "reading from file failed"),
            Command.WRITE: (self._write, "writing to file failed"),
            Command.FLUSH: (self._flush, "flush failed"),
            Command.TRIM: (self._trim, "discard failed"),
            Command.CACHE: (self._cache, "caching data failed"),
            Command.WRITE_ZEROES: (self._write_zeroes, "writing to file failed"),
            Command.BLOCK_STATUS: (self._block_status, "can't get block status"),
        }

    async def perform(self, request: Request) -> Reply:
        """Perform a request and return the reply; never raises ``OSError``."""
        handler, trouble = self._handlers.get(request.command, (self._unknown, ""))
        try:
            self._check(request)
            return await handler(request)
        except OSError as error:
            return self.refusal(request, error.errno or errno.EIO, trouble)
        except _Failed as failure:
            return self.refusal(request, failure.code, failure.text)

    def refusal(self, request: Request, code: int, text: str) -> Reply:
        """Return the reply to a request that failed."""
        return [replies.error(request.cookie, code, text, structured=self._structured)]

    def _check(self, request: Request) -> None:
        """Raise ``_Failed`` for what the specification forbids."""
        flags, command, _, offset, length, _ = request
        if length > MAX_PAYLOAD and command in _LIMITED:
            text = f"len ({length} ) is larger than max len ({MAX_PAYLOAD})"
            raise _Failed(errno.EINVAL, text)
        if command in _WRITING and not self._export.writable:
            raise _Failed(errno.EPERM, "Export is read-only")
        if offset + length > self._size:
            code = errno.EINVAL
            if command in {Command.WRITE, Command.WRITE_ZEROES}:
                code = errno.ENOSPC
            text = f"operation past EOF; From: {offset}, Len: {length}, Size: {self._size}"
            raise _Failed(code, text)
        if flags and flags & ~self._allowed_flags(command):
            name = COMMAND_NAMES.get(command, "<unknown>")  # type: ignore[call-overload]
            text = f"unsupported flags for command {name} (got 0x{flags:x})"
            raise _Failed(errno.EINVAL, text)

    def _allowed_flags(self, command: int) -> int:
        allowed: int = _FLAGS.get(command, CommandFlag.FUA)  # type: ignore[call-overload]
        if command == Command.READ and not self._structured:
            allowed &= ~CommandFlag.DF
        return allowed

    async def _unknown(self, request: Request) -> Reply:
        text = f"invalid request type ({request.command}) received"
        raise _Failed(errno.EINVAL, text)

    def _done(self, request: Request) -> Reply:
        return [replies.simple(request.cookie)]

    # Data

    async def _read(self, request: Request) -> Reply:
        flags, _, cookie, offset, length, _ = request
        if flags & _FUA:
            await self._flush(request)
        if not self._structured:
            return [replies.simple(cookie), await self._backend.pread(offset, length)]
        if not length:
            return [replies.done(cookie)]
        if length >= SPARSE_MIN and not flags & _DF:
            extents = await self._backend.block_status(offset, length)
            if any(extent.status & Status.ZERO for extent in extents):
                return await self._read_sparse(cookie, offset, length, extents)
        data = await self._backend.pread(offset, length)
        return [replies.data_header(cookie, offset, length, last=True), data]

    async def _read_sparse(
        self, cookie: int, offset: int, length: int, extents: list[Extent]
    ) -> Reply:
        """Read what is not zero, each run of it as a chunk."""
        reply: Reply = []
        end = offset + length
        for start, size, zero in _zero_runs(extents, end):
            last = start + size == end
            if zero:
                reply.append(replies.hole(cookie, start, size, last=last))
            else:
                reply.append(replies.data_header(cookie, start, size, last=last))
                reply.append(await self._backend.pread(start, size))
        return reply

    async def _write(self, request: Request) -> Reply:
        payload = request.payload
        assert payload is not None, "a write that is too long was refused"
        flags = WriteFlags.FUA if request.flags & _FUA else NO_FLAGS
        await self._backend.pwrite(request.offset, payload, flags)
        return [replies.simple(request.cookie)]

    async def _write_zeroes(self, request: Request) -> Reply:
        flags = WriteFlags.FUA if request.flags & CommandFlag.FUA else WriteFlags.NONE
        if not request.flags & CommandFlag.NO_HOLE:
            flags |= WriteFlags.MAY_UNMAP
        if request.flags & CommandFlag.FAST_ZERO:
            flags |= WriteFlags.NO_FALLBACK
        await self._backend.pwrite_zeroes(request.offset, request.length, flags)
        return self._done(request)

    async def _trim(self, request: Request) -> Reply:
        await self._backend.pdiscard(request.offset, request.length)
        if request.flags & _FUA:
            await self._backend.flush()
        return self._done(request)

    async def _flush(self, request: Request) -> Reply:
        try:
            await self._backend.flush()
        except OSError as error:
            raise _Failed(error.errno or errno.EIO, "flush failed") from error
        return self._done(request)

    async def _cache(self, request: Request) -> Reply:
        """Read the range, so that it is in the host's cache."""
        end = request.offset + request.length
        for start in range(request.offset, end, CACHE_PIECE):
            await self._backend.pread(start, min(CACHE_PIECE, end - start))
        return self._done(request)

    # Maps

    async def _block_status(self, request: Request) -> Reply:
        if not request.length:
            raise _Failed(errno.EINVAL, "need non-zero length")
        if not self._contexts:
            raise _Failed(errno.EINVAL, "CMD_BLOCK_STATUS not negotiated")
        limit = 1 if request.flags & CommandFlag.REQ_ONE else MAX_EXTENTS
        reply: Reply = []
        for number in self._contexts:
            extents = await self._extents(number, request.offset, request.length, limit)
            last = number == self._contexts[-1]
            reply.append(replies.block_status(request.cookie, number, extents, last=last))
        return reply

    async def _extents(
        self, context: int, offset: int, length: int, limit: int
    ) -> list[tuple[int, int]]:
        """Return up to ``limit`` pairs of bytes and status, neighbours alike made one."""
        merged = _Merged(limit)
        bitmap = self._export.bitmaps.get(context)
        if bitmap is not None:
            merged.add_all(_bitmap_runs(bitmap, offset, offset + length))
            return merged.runs
        status = {BASE_CONTEXT: _allocation, DEPTH_CONTEXT: _depth}[context]
        async for extents in self._windows(offset, length):
            if not merged.add_all((extent.length, status(extent)) for extent in extents):
                break
        return merged.runs

    async def _windows(self, offset: int, length: int) -> AsyncIterator[list[Extent]]:
        """Yield the map of a range, window by window."""
        end, window = offset + length, FIRST_WINDOW
        while offset < end:
            size = min(window, end - offset)
            yield await self._backend.block_status(offset, size)
            offset += size
            window = min(2 * window, LAST_WINDOW)
            await asyncio.sleep(0)


def _allocation(extent: Extent) -> int:
    status = 0 if extent.status & Status.DATA else int(State.HOLE)
    return status | (int(State.ZERO) if extent.status & Status.ZERO else 0)


def _depth(extent: Extent) -> int:
    """Return the layer that decides the extent, the topmost being 1; 0: none does."""
    return extent.depth + 1 if extent.status & Status.ALLOCATED else 0


def _zero_runs(extents: list[Extent], end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield ``(offset, length, is_zero)``, neighbours alike made one."""
    start, zero = extents[0].offset, bool(extents[0].status & Status.ZERO)
    for extent in extents:
        if bool(extent.status & Status.ZERO) != zero:
            yield start, extent.offset - start, zero
            start, zero = extent.offset, not zero
    yield start, end - start, zero


def _bitmap_runs(bitmap: DirtyBitmap, offset: int, end: int) -> Runs:
    for start, length in bitmap.runs(offset, end):
        if start > offset:
            yield start - offset, 0
        yield length, STATE_DIRTY
        offset = start + length
    if offset < end:
        yield end - offset, 0


class _Merged:
    """Runs that follow each other, up to a number of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.runs: list[tuple[int, int]] = []

    def add_all(self, runs: Runs) -> bool:
        """Add the runs; return whether more may come."""
        found = self.runs
        for length, status in runs:
            if found and found[-1][1] == status and found[-1][0] + length <= MAX_EXTENT:
                found[-1] = found[-1][0] + length, status
            elif len(found) == self._limit:
                return False
            else:
                found.append((length, status))
        return True
