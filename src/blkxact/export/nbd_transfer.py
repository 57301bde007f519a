"""Requests of one NBD client, performed on an export.

Invariants:

* A request that fails is answered with its errno; the client goes on.
* Zeroes are sent as holes where the map of the disk says so; a read of less than ``SPARSE_MIN``
  bytes is not worth a look at the map.
* Maps are looked up in windows, so neither the size of the disk nor the length that a client names
  decides how long others wait or how much memory it takes.

QEMU's counterpart: ``nbd/server.c`` (nbd_handle_request), whose words the errors are.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple, NoReturn

from blkxact.block.child import NO_FLAGS
from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.nbd import replies
from blkxact.nbd.protocol import (
    COMMAND_NAMES,
    EXTENT,
    MAX_PAYLOAD,
    STATE_DIRTY,
    Command,
    CommandFlag,
    State,
)
from blkxact.nbd.request_stream import Request
from blkxact.runtime.steps import yield_turn
from blkxact.storage.api import Buffer

from .exports import BASE_CONTEXT, DEPTH_CONTEXT, BlockExport

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
_NO_HOLE: Final = int(CommandFlag.NO_HOLE)
_FAST_ZERO: Final = int(CommandFlag.FAST_ZERO)
_REQ_ONE: Final = int(CommandFlag.REQ_ONE)

# Tables by the value of a Status, since the operators of a Flag are slow.
_STATUSES: Final = [Status(value) for value in range(2 * Status.UNKNOWN)]
_IS_ZERO: Final = [bool(status & Status.ZERO) for status in _STATUSES]
_IS_ALLOCATED: Final = [bool(status & Status.ALLOCATED) for status in _STATUSES]
_STATE: Final = [
    (0 if status & Status.DATA else State.HOLE) | (State.ZERO if status & Status.ZERO else 0)
    for status in _STATUSES
]

Reply = list[Buffer]
Runs = Iterator[tuple[int, int]]
"""Pairs of bytes and status that follow each other."""


class _Failed(Exception):  # noqa: N818 - it is the client's, not ours
    """A request cannot be done; ``code`` is an errno."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Plan(NamedTuple):
    """How a command is done, and what it may ask for."""

    handler: Callable[[Request], Awaitable[Reply]]
    trouble: str
    """The error that a client gets if it fails."""
    flags: int = _FUA
    """Flags that it may have."""
    max_length: int = MAX_EXTENT
    allowed: bool = True
    """Whether this export takes it at all."""
    beyond_end: int = errno.EINVAL
    """The errno of a request that goes beyond the end."""


class Transfer:
    """What one client may do with its export.

    ``contexts`` are the numbers of the metadata contexts that it has selected; ``structured``
    whether it understands structured replies, ``client`` is its number.
    """

    def __init__(
        self, export: BlockExport, *, structured: bool, contexts: list[int], client: int
    ) -> None:
        self._export = export
        self._client = client
        export.points.hit("nbd.transmission", client=client, export=export.name)
        self._backend = export.backend
        self._size = export.size
        self._structured = structured
        self._contexts = contexts
        writable = export.writable
        read_flags = _FUA | _DF if structured else _FUA
        zero_flags = _FUA | _NO_HOLE | _FAST_ZERO
        writing = "writing to file failed"
        plan = _Plan
        self._plans: dict[int, _Plan] = {
            Command.READ: plan(self._read, "reading from file failed", read_flags, MAX_PAYLOAD),
            Command.WRITE: plan(self._write, writing, _FUA, MAX_PAYLOAD, writable, errno.ENOSPC),
            Command.FLUSH: plan(self._flush, "flush failed"),
            Command.TRIM: plan(self._trim, "discard failed", allowed=writable),
            Command.CACHE: plan(self._cache, "caching data failed", max_length=MAX_PAYLOAD),
            Command.WRITE_ZEROES: plan(
                self._write_zeroes, writing, zero_flags, MAX_EXTENT, writable, errno.ENOSPC
            ),
            Command.BLOCK_STATUS: plan(
                self._block_status, "can't get block status", _FUA | _REQ_ONE
            ),
        }
        self._no_plan = plan(self._unknown, "")

    def begin(self, request: Request) -> Coroutine[Any, Any, Reply]:
        """Perform a request, between its points if anybody listens."""
        points = self._export.points
        return self._perform_observed(request) if points.listening else self.perform(request)

    async def perform(self, request: Request) -> Reply:
        """Perform a request and return the reply; never raises ``OSError``."""
        plan = self._plans.get(request.command, self._no_plan)
        try:
            if (
                request.flags & ~plan.flags
                or request.offset + request.length > self._size
                or request.length > plan.max_length
                or not plan.allowed
                or (request.command != Command.READ and self._export.inactive)
            ):
                self._refuse(request, plan)
            return await plan.handler(request)
        except OSError as error:
            return self.refusal(request, error.errno or errno.EIO, plan.trouble)
        except _Failed as failure:
            return self.refusal(request, failure.code, failure.text)

    async def _perform_observed(self, request: Request) -> Reply:
        """Perform a request between its points; a ``ConnectionError`` cuts the connection."""
        points, plan = self._export.points, self._plans.get(request.command, self._no_plan)
        name = COMMAND_NAMES.get(request.command, "<unknown>")  # type: ignore[call-overload]
        facts = {"client": self._client, "export": self._export.name, "command": name}
        facts |= {"offset": request.offset, "length": request.length}
        try:
            await points.reach("nbd.request", **facts)
        except ConnectionError:
            raise
        except OSError as error:
            reply = self.refusal(request, error.errno or errno.EIO, plan.trouble)
        else:
            reply = await self.perform(request)
        await points.reach("nbd.reply", **facts)
        return reply

    def refusal(self, request: Request, code: int, text: str) -> Reply:
        """Return the reply to a request that failed."""
        return [replies.error(request.cookie, code, text, structured=self._structured)]

    def _refuse(self, request: Request, plan: _Plan) -> NoReturn:
        """Raise ``_Failed`` with the first reason that there is."""
        flags, command, _, offset, length, _ = request
        if length > plan.max_length:
            text = f"len ({length} ) is larger than max len ({plan.max_length})"
            raise _Failed(errno.EINVAL, text)
        if not plan.allowed:
            raise _Failed(errno.EPERM, "Export is read-only")
        if offset + length > self._size:
            text = f"operation past EOF; From: {offset}, Len: {length}, Size: {self._size}"
            raise _Failed(plan.beyond_end, text)
        if not flags & ~plan.flags:
            raise _Failed(errno.EPERM, "export is inactive")
        name = COMMAND_NAMES.get(command, "<unknown>")  # type: ignore[call-overload]
        text = f"unsupported flags for command {name} (got 0x{flags:x})"
        raise _Failed(errno.EINVAL, text)

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
            if any(_IS_ZERO[extent.status] for extent in extents):
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
        flags = WriteFlags.FUA if request.flags & _FUA else WriteFlags.NONE
        if not request.flags & _NO_HOLE:
            flags |= WriteFlags.MAY_UNMAP
        if request.flags & _FAST_ZERO:
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
        limit = 1 if request.flags & _REQ_ONE else MAX_EXTENTS
        reply: Reply = []
        for number in self._contexts:
            extents = await self._extents(number, request.offset, request.length, limit)
            last = number == self._contexts[-1]
            reply.append(replies.packed_block_status(request.cookie, number, extents, last=last))
        return reply

    async def _extents(self, context: int, offset: int, length: int, limit: int) -> bytes:
        """Return up to ``limit`` extents, packed, neighbours alike made one."""
        bitmap = self._export.bitmaps.get(context)
        if bitmap is not None:
            turns = bitmap.turns(offset, offset + length, limit + 1)
            return replies.pack_turns(turns, STATE_DIRTY)[: limit * EXTENT.size]
        merged = _Merged(limit)
        status = {BASE_CONTEXT: _allocation, DEPTH_CONTEXT: _depth}[context]
        async for extents in self._windows(offset, length):
            if not merged.add_all((extent.length, status(extent)) for extent in extents):
                break
        return replies.pack_extents(merged.runs)

    async def _windows(self, offset: int, length: int) -> AsyncIterator[list[Extent]]:
        """Yield the map of a range, window by window."""
        end, window = offset + length, FIRST_WINDOW
        while offset < end:
            size = min(window, end - offset)
            yield await self._backend.block_status(offset, size)
            offset += size
            window = min(2 * window, LAST_WINDOW)
            await yield_turn()


def _allocation(extent: Extent) -> int:
    return _STATE[extent.status]


def _depth(extent: Extent) -> int:
    """Return the layer that decides the extent, the topmost being 1; 0: none does."""
    return extent.depth + 1 if _IS_ALLOCATED[extent.status] else 0


def _zero_runs(extents: list[Extent], end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield ``(offset, length, is_zero)``, neighbours alike made one."""
    start, zero = extents[0].offset, _IS_ZERO[extents[0].status]
    for extent in extents:
        if _IS_ZERO[extent.status] != zero:
            yield start, extent.offset - start, zero
            start, zero = extent.offset, not zero
    yield start, end - start, zero


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
