"""From the bytes of a server to the answers to our requests, with as few copies as can be.

Invariants:

* What a server sends is measured against the request that it answers before anything is kept:
  a chunk lies inside of what was asked, no byte comes twice, a good answer leaves none out.
* Large data is received right into the buffer that the reader gets.
* Anything else is a ``ProtocolError``: the connection cannot go on, as nobody knows any more what
  its bytes mean.

Source: the NBD protocol specification, "Simple reply message", "Structured reply chunk message".
QEMU's counterpart: ``block/nbd.c`` (nbd_co_do_receive_one_chunk), whose words the errors are.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from .input_buffer import DIRECT_SIZE, InputBuffer
from .protocol import (
    CHUNK,
    CHUNK_ERROR,
    CHUNK_ERROR_BIT,
    CHUNK_HOLE,
    CHUNK_OFFSET,
    EXTENDED_CHUNK,
    EXTENDED_EXTENT,
    EXTENDED_REPLY_MAGIC,
    EXTENT,
    EXTENTS_HEADER,
    MAX_STRING,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    U32,
    Chunk,
    ChunkFlag,
    Command,
    Mode,
    ProtocolError,
    error_from_wire,
)

MAX_CHUNKS: Final = 64 << 10
"""Chunks of one reply: one for each sector of the largest read."""
MAX_EXTENTS: Final = 16 << 10
"""Extents of a reply to BLOCK_STATUS that are used; who wants to know the rest asks again."""
MAX_SENT_EXTENTS: Final = 1 << 20
"""Extents of a chunk of BLOCK_STATUS: no known server sends more."""
MAX_ERROR_PAYLOAD: Final = CHUNK_ERROR.size + MAX_STRING + CHUNK_OFFSET.size

# As plain numbers: the operators of an IntFlag are slow.
_DONE: Final = int(ChunkFlag.DONE)
_DATA: Final = int(Chunk.OFFSET_DATA)
_OUTSIDE: Final = "Protocol error: server sent chunk exceeding requested region"


class Answer(NamedTuple):
    """What came of a request."""

    cookie: int
    error: OSError | None
    data: bytearray
    """What was read."""
    extents: list[tuple[int, int]]
    """Pairs of bytes and status, from the start of the range that was asked for."""


class _Expected:
    """A request that waits for its answer."""

    def __init__(self, cookie: int, command: Command, offset: int, length: int) -> None:
        self.cookie = cookie
        self.command = command
        self.offset = offset
        self.length = length
        self.data = bytearray(length if command is Command.READ else 0)
        self.covered: list[tuple[int, int]] = []
        """Pieces that came, as start and end, in order, neighbours made one."""
        self.extents: list[tuple[int, int]] = []
        self.error: OSError | None = None
        self.chunks = 0

    def cover(self, offset: int, length: int) -> memoryview:
        """Note a piece of the data, and return where it goes."""
        start = offset - self.offset
        end = start + length
        if self.command is not Command.READ or not length or start < 0 or end > self.length:
            raise ProtocolError(_OUTSIDE)
        covered = self.covered
        at = bisect(covered, (start, end))
        before = covered[at - 1] if at else (0, 0)
        after = covered[at] if at < len(covered) else (self.length, self.length)
        if before[1] > start or after[0] < end:
            raise ProtocolError("Protocol error: server sent overlapping chunks")
        first = at - 1 if at and before[1] == start else at
        last = at + 1 if at < len(covered) and after[0] == end else at
        covered[first:last] = [(before[0] if first < at else start, after[1] if last > at else end)]
        return memoryview(self.data)[start:end]

    def answer(self) -> Answer:
        """Return the answer, all of it having come."""
        if self.error is None:
            if self.command is Command.READ and self.covered != [(0, self.length)]:
                raise ProtocolError("Protocol error: server left out a part of what was read")
            if self.command is Command.BLOCK_STATUS and not self.extents:
                raise ProtocolError("Server did not reply with any status extents")
        return Answer(self.cookie, self.error, self.data, self.extents)


class ReplyStream(InputBuffer):
    """The replies of one server. ``mode`` and ``context`` are what the handshake agreed."""

    def __init__(self, mode: Mode, context: int | None) -> None:
        super().__init__()
        self._mode = mode
        self._extended = mode >= Mode.EXTENDED
        self._layout = EXTENDED_CHUNK if self._extended else CHUNK
        """Of a chunk's header."""
        self._kinds = _EXTENDED_KINDS if self._extended else _KINDS
        self._context = context
        self._expected: dict[int, _Expected] = {}
        self._answer: Answer | None = None
        self._after_direct: Callable[[], None]

    def expect(self, cookie: int, command: Command, offset: int, length: int) -> None:
        """Know a request, which is about to be sent; ``cookie`` is not in use."""
        assert cookie not in self._expected, cookie
        self._expected[cookie] = _Expected(cookie, command, offset, length)

    def next_answer(self) -> Answer | None:
        """Return the next answer that is complete; raises ``ProtocolError``."""
        while self._answer is None:
            if self._direct is not None:
                if self._filled < len(self._direct):
                    return None
                self._direct = None
                self._after_direct()
            elif not self._take_message():
                return None
        answer, self._answer = self._answer, None
        return answer

    def _take_message(self) -> bool:
        """Take the next message, or the beginning of one with large data; False: none is there."""
        ready = self._end - self._start
        if ready < SIMPLE_REPLY.size:
            return False
        (magic,) = U32.unpack_from(self._buffer, self._start)
        if magic == SIMPLE_REPLY_MAGIC and not self._extended:
            return self._take_simple(ready - SIMPLE_REPLY.size)
        if magic != (EXTENDED_REPLY_MAGIC if self._extended else STRUCTURED_REPLY_MAGIC):
            raise ProtocolError(f"invalid magic (got 0x{magic:x})")
        if self._mode < Mode.STRUCTURED:
            raise ProtocolError("Protocol error: structured reply where none was agreed upon")
        header = self._layout.size
        return ready >= header and self._take_chunk(ready - header)

    def _find(self, cookie: int) -> _Expected:
        request = self._expected.get(cookie)
        if request is None:
            raise ProtocolError(f"Protocol error: reply to an unknown request 0x{cookie:x}")
        return request

    def _end_reply(self, request: _Expected) -> None:
        del self._expected[request.cookie]
        self._answer = request.answer()

    # Simple replies

    def _take_simple(self, ready: int) -> bool:
        _, error, cookie = SIMPLE_REPLY.unpack_from(self._buffer, self._start)
        request = self._find(cookie)
        is_read = request.command is Command.READ
        if request.chunks or (is_read and self._mode >= Mode.STRUCTURED):
            raise ProtocolError(
                "Protocol error: simple reply when structured reply chunk was expected"
            )
        if error:
            request.error = error_from_wire(error)
        elif request.command is Command.BLOCK_STATUS:
            raise ProtocolError("Server did not reply with any status extents")
        length = request.length if is_read and not error else 0
        if length < DIRECT_SIZE and ready < length:
            return False
        self._start += SIMPLE_REPLY.size
        if length:
            self._take_data(request, request.offset, length, last=True)
        else:
            self._end_reply(request)
        return True

    def _take_data(self, request: _Expected, offset: int, length: int, *, last: bool) -> None:
        """Take data into the request's buffer, now or as it comes."""
        place = request.cover(offset, length)

        def taken() -> None:
            if last:
                self._end_reply(request)

        if length >= DIRECT_SIZE:
            self._after_direct = taken
            self._receive_direct(place)
        else:
            place[:] = self._buffer[self._start : self._start + length]
            self._start += length
            taken()

    # Chunks

    def _take_chunk(self, ready: int) -> bool:
        _, flags, kind, cookie, *at, length = self._layout.unpack_from(self._buffer, self._start)
        request = self._find(cookie)
        if at and at != [request.offset]:
            raise ProtocolError("Protocol error: server sent chunk with another request's offset")
        self._check_header(request, kind, length)
        last = bool(flags & _DONE)
        if kind == _DATA:
            return self._take_data_chunk(request, length, ready, last=last)
        if length < DIRECT_SIZE and ready < length:
            return False
        self._count(request)
        self._start += self._layout.size

        def take(payload: memoryview) -> None:
            self._take_payload(request, kind, payload, last=last)

        if length >= DIRECT_SIZE:
            payload = memoryview(bytearray(length))
            self._after_direct = lambda: take(payload)
            self._receive_direct(payload)
        else:
            self._start += length
            take(self._buffer[self._start - length : self._start])
        return True

    def _take_data_chunk(self, request: _Expected, length: int, ready: int, *, last: bool) -> bool:
        size = length - CHUNK_OFFSET.size
        if ready < (CHUNK_OFFSET.size if size >= DIRECT_SIZE else length):
            return False
        self._count(request)
        (offset,) = CHUNK_OFFSET.unpack_from(self._buffer, self._start + self._layout.size)
        self._start += self._layout.size + CHUNK_OFFSET.size
        self._take_data(request, offset, size, last=last)
        return True

    @staticmethod
    def _count(request: _Expected) -> None:
        request.chunks += 1
        if request.chunks > MAX_CHUNKS:
            raise ProtocolError("Protocol error: server sent a reply in too many chunks")

    def _take_payload(
        self, request: _Expected, kind: int, payload: memoryview, *, last: bool
    ) -> None:
        if kind == Chunk.OFFSET_HOLE:
            request.cover(*CHUNK_HOLE.unpack(payload))  # the buffer is zeroes from the start
        elif kind in _STATUS_KINDS:
            self._take_status(request, payload)
        elif kind & CHUNK_ERROR_BIT:
            error = _error_of(payload)
            request.error = request.error or error
        elif not last:
            raise ProtocolError(
                "Protocol error: NBD_REPLY_TYPE_NONE chunk without NBD_REPLY_FLAG_DONE flag set"
            )
        if last:
            self._end_reply(request)

    def _take_status(self, request: _Expected, payload: memoryview) -> None:
        layout = EXTENDED_EXTENT if self._extended else EXTENT
        start = EXTENTS_HEADER.size if self._extended else U32.size
        extents = payload[start:]
        (context,) = U32.unpack_from(payload)
        if context != self._context:
            raise ProtocolError(
                f"Protocol error: unexpected context id {context} for "
                f"NBD_REPLY_TYPE_BLOCK_STATUS, when negotiated context id is {self._context}"
            )
        if request.extents:
            raise ProtocolError("Several BLOCK_STATUS chunks in reply")
        count, rest = divmod(len(extents), layout.size)
        if rest or (self._extended and EXTENTS_HEADER.unpack_from(payload) != (context, count)):
            raise ProtocolError("Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS")
        used = layout.iter_unpack(extents[: MAX_EXTENTS * layout.size])
        request.extents = [(size, status) for size, status in used]
        if not all(size for size, _ in request.extents):
            raise ProtocolError("Protocol error: server sent status chunk with zero length")

    def _check_header(self, request: _Expected, kind: int, length: int) -> None:
        """Refuse a chunk that cannot be one of an answer to this request, by its header alone."""
        known = self._kinds.get(kind, _STRUCTURED_ERROR if kind & CHUNK_ERROR_BIT else None)
        if known is None or known.command not in (None, request.command):
            raise ProtocolError(f"Unexpected reply type: {kind} for CMD_{request.command.name}")
        if not known.least <= length <= known.most:
            raise ProtocolError(f"Protocol error: invalid payload for {known.name}")
        if kind == _DATA and length - CHUNK_OFFSET.size > request.length:
            raise ProtocolError(_OUTSIDE)


class _Kind(NamedTuple):
    """What a kind of chunk may be: to which command, with how many bytes."""

    name: str
    command: Command | None
    least: int
    most: int


_STRUCTURED_ERROR: Final = _Kind("structured error", None, CHUNK_ERROR.size, MAX_ERROR_PAYLOAD)
_COMMON_KINDS: Final[dict[int, _Kind]] = {
    Chunk.NONE: _Kind("NBD_REPLY_TYPE_NONE", None, 0, 0),
    Chunk.OFFSET_DATA: _Kind(
        "NBD_REPLY_TYPE_OFFSET_DATA", Command.READ, CHUNK_OFFSET.size + 1, 1 << 32
    ),
    Chunk.OFFSET_HOLE: _Kind(
        "NBD_REPLY_TYPE_OFFSET_HOLE", Command.READ, CHUNK_HOLE.size, CHUNK_HOLE.size
    ),
}
_STATUS_KINDS: Final = (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT)


def _status_kind(header: Struct, extent: Struct) -> _Kind:
    least, most = (header.size + count * extent.size for count in (1, MAX_SENT_EXTENTS))
    return _Kind("NBD_REPLY_TYPE_BLOCK_STATUS", Command.BLOCK_STATUS, least, most)


_KINDS: Final = {**_COMMON_KINDS, Chunk.BLOCK_STATUS: _status_kind(U32, EXTENT)}
_EXTENDED_KINDS: Final = {
    **_COMMON_KINDS,
    Chunk.BLOCK_STATUS_EXT: _status_kind(EXTENTS_HEADER, EXTENDED_EXTENT),
}


def _error_of(payload: memoryview) -> OSError:
    number, message = CHUNK_ERROR.unpack_from(payload)
    if not number:
        raise ProtocolError("Protocol error: server sent structured error chunk with error = 0")
    if message > len(payload) - CHUNK_ERROR.size:
        raise ProtocolError(
            "Protocol error: server sent structured error chunk with incorrect message size"
        )
    return error_from_wire(number)
