"""Requests of one NBD client, performed on an export.

Invariants:

* A request that fails is answered with its errno; the client goes on.
* Zeroes are sent as holes where the map of the disk says so; a read of less than ``SPARSE_MIN``
  bytes is not worth a look at the map.
* Long ranges are zeroed and discarded in pieces, so that others get their turn.

QEMU's counterpart: ``nbd/server.c`` (nbd_handle_request), whose words the errors are.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple, NoReturn

from blkxact.block.child import NO_FLAGS
from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.nbd.protocol import (
    COMMAND_NAMES,
    MAX_PAYLOAD,
    Command,
    CommandFlag,
    Mode,
)
from blkxact.nbd.replies import Replies
from blkxact.nbd.request_stream import Request
from blkxact.nbd.status_payload import StatusPayload
from blkxact.storage.api import Buffer

from .exports import BlockExport
from .nbd_maps import Maps

SPARSE_MIN: Final = 32 << 10
"""Bytes from which on a read is sent with its holes."""
CACHE_PIECE: Final = 1 << 20
"""Bytes that CACHE reads at a time."""
ZERO_PIECE: Final = 1 << 30
"""Bytes that are zeroed or discarded at a time."""
NO_LIMIT: Final = (1 << 64) - 1

_FUA: Final = int(CommandFlag.FUA)
_DF: Final = int(CommandFlag.DF)
_NO_HOLE: Final = int(CommandFlag.NO_HOLE)
_FAST_ZERO: Final = int(CommandFlag.FAST_ZERO)
_REQ_ONE: Final = int(CommandFlag.REQ_ONE)
_PAYLOAD_LEN: Final = int(CommandFlag.PAYLOAD_LEN)

_IS_ZERO: Final = [bool(Status(value) & Status.ZERO) for value in range(2 * Status.UNKNOWN)]
"""By the value of a Status, since the operators of a Flag are slow."""

Reply = list[Buffer]


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
    max_length: int = NO_LIMIT
    allowed: bool = True
    """Whether this export takes it at all."""
    beyond_end: int = errno.EINVAL
    """The errno of a request that goes beyond the end."""


class Transfer:
    """What one client may do with its export.

    ``contexts`` are the numbers of the metadata contexts that it has selected; ``mode`` is what
    the handshake has agreed, ``client`` is its number. ``extended_offered``: the server is of a
    release that has extended headers.
    """

    def __init__(
        self,
        export: BlockExport,
        *,
        mode: Mode,
        contexts: list[int],
        client: int,
        extended_offered: bool = False,
    ) -> None:
        self._export = export
        self._client = client
        export.points.hit("nbd.transmission", client=client, export=export.name)
        self._backend = export.backend
        self._size = export.size
        self._structured = mode >= Mode.STRUCTURED
        self._extended = mode >= Mode.EXTENDED
        self._extended_offered = extended_offered
        self._replies = Replies(mode)
        self._maps = Maps(export, mode)
        self._contexts = contexts
        self._plans = self._make_plans(writable=export.writable)
        self._no_plan = _Plan(self._unknown, "")

    def _make_plans(self, *, writable: bool) -> dict[int, _Plan]:
        payload_flag = _PAYLOAD_LEN if self._extended else 0
        read_flags = _FUA | _DF if self._structured else _FUA
        write_flags = _FUA | payload_flag
        status_flags = _FUA | _REQ_ONE | payload_flag
        zero_flags = _FUA | _NO_HOLE | _FAST_ZERO
        writing = "writing to file failed"
        plan = _Plan
        return {
            Command.READ: plan(self._read, "reading from file failed", read_flags, MAX_PAYLOAD),
            Command.WRITE: plan(
                self._write, writing, write_flags, MAX_PAYLOAD, writable, errno.ENOSPC
            ),
            Command.FLUSH: plan(self._flush, "flush failed"),
            Command.TRIM: plan(self._trim, "discard failed", allowed=writable),
            Command.CACHE: plan(self._cache, "caching data failed", max_length=MAX_PAYLOAD),
            Command.WRITE_ZEROES: plan(
                self._write_zeroes, writing, zero_flags, NO_LIMIT, writable, errno.ENOSPC
            ),
            Command.BLOCK_STATUS: plan(self._block_status, "can't get block status", status_flags),
        }

    def begin(self, request: Request) -> Coroutine[Any, Any, Reply]:
        """Perform a request, between its points if anybody listens."""
        payload = request.payload
        if payload is not None and request.command != Command.WRITE:
            request = self._with_effect(request, payload)
        points = self._export.points
        return self._perform_observed(request) if points.listening else self.perform(request)

    def _with_effect(self, request: Request, payload: memoryview) -> Request:
        """Return a request whose length is that of its payload, with the one that it is about.

        Where the payload is not valid, or the command has none, that is 0.
        """
        asked = StatusPayload(0, [])
        if request.command == Command.BLOCK_STATUS:
            asked = StatusPayload.unpack(payload, self._contexts)
        return request._replace(length=asked.length, contexts=asked.contexts)

    async def perform(self, request: Request) -> Reply:
        """Perform a request and return the reply; never raises ``OSError``."""
        plan = self._plans.get(request.command, self._no_plan)
        try:
            if (
                request.flags & ~plan.flags
                or request.offset + request.length > self._size
                or request.length > plan.max_length
                or request.cut
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
        return [self._replies.error(request, code, text)]

    def _refuse(self, request: Request, plan: _Plan) -> NoReturn:
        """Raise ``_Failed`` with the first reason that there is."""
        flags, command, offset, length = (
            request.flags,
            request.command,
            request.offset,
            request.length,
        )
        if length > plan.max_length or request.cut:
            space = "" if self._extended_offered else " "
            text = f"len ({length}{space}) is larger than max len ({MAX_PAYLOAD})"
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
        return [self._replies.success(request)]

    # Data

    async def _read(self, request: Request) -> Reply:
        flags, offset, length = request.flags, request.offset, request.length
        if flags & _FUA:
            await self._flush(request)
        if not self._structured:
            data = await self._backend.pread(offset, length)
            return [self._replies.success(request), data]
        if not length:
            return [self._replies.nothing(request)]
        if length >= SPARSE_MIN and not flags & _DF:
            extents = await self._backend.block_status(offset, length)
            if any(_IS_ZERO[extent.status] for extent in extents):
                return await self._read_sparse(request, extents)
        data = await self._backend.pread(offset, length)
        return [self._replies.data_header(request, offset, length, last=True), data]

    async def _read_sparse(self, request: Request, extents: list[Extent]) -> Reply:
        """Read what is not zero, each run of it as a chunk."""
        reply: Reply = []
        end = request.offset + request.length
        for start, size, zero in _zero_runs(extents, end):
            last = start + size == end
            if zero:
                reply.append(self._replies.hole(request, start, size, last=last))
            else:
                reply.append(self._replies.data_header(request, start, size, last=last))
                reply.append(await self._backend.pread(start, size))
        return reply

    async def _write(self, request: Request) -> Reply:
        payload = request.payload
        assert payload is not None, "a write that is too long was refused"
        flags = WriteFlags.FUA if request.flags & _FUA else NO_FLAGS
        await self._backend.pwrite(request.offset, payload, flags)
        return self._done(request)

    async def _write_zeroes(self, request: Request) -> Reply:
        flags = WriteFlags.FUA if request.flags & _FUA else WriteFlags.NONE
        if not request.flags & _NO_HOLE:
            flags |= WriteFlags.MAY_UNMAP
        if request.flags & _FAST_ZERO:
            flags |= WriteFlags.NO_FALLBACK
        for offset, length in _zero_pieces(request):
            await self._backend.pwrite_zeroes(offset, length, flags)
        return self._done(request)

    async def _trim(self, request: Request) -> Reply:
        for offset, length in _zero_pieces(request):
            await self._backend.pdiscard(offset, length)
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

    async def _block_status(self, request: Request) -> Reply:
        contexts = self._contexts if request.contexts is None else request.contexts
        if not request.length and request.contexts != []:
            raise _Failed(errno.EINVAL, "need non-zero length")
        if not contexts:
            trouble = "payload not valid" if self._contexts else "not negotiated"
            raise _Failed(errno.EINVAL, f"CMD_BLOCK_STATUS {trouble}")
        return await self._maps.reply(request, contexts)


def _zero_pieces(request: Request) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a range that are zeroed at a time; they end at multiples of their size.

    One of nothing for an empty range.
    """
    offset, end = request.offset, request.offset + request.length
    while True:
        stop = min(end, offset - offset % ZERO_PIECE + ZERO_PIECE)
        yield offset, stop - offset
        if stop == end:
            return
        offset = stop


def _zero_runs(extents: list[Extent], end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield ``(offset, length, is_zero)``, neighbours alike made one."""
    start, zero = extents[0].offset, _IS_ZERO[extents[0].status]
    for extent in extents:
        if _IS_ZERO[extent.status] != zero:
            yield start, extent.offset - start, zero
            start, zero = extent.offset, not zero
    yield start, end - start, zero
