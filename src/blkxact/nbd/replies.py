"""Replies of a server, packed: simple ones, and those in chunks.

Methods return buffers that go before data, so that data is sent as it was read.

Source: the NBD protocol specification, "Transmission phase".
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

from .protocol import (
    CHUNK,
    CHUNK_ERROR,
    CHUNK_HOLE,
    CHUNK_OFFSET,
    DATA_HEADER,
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
    Mode,
    error_to_wire,
    pack_text,
)
from .request_stream import Request

_DONE = int(ChunkFlag.DONE)
_NONE = int(Chunk.NONE)
_DATA = int(Chunk.OFFSET_DATA)
_HOLE = int(Chunk.OFFSET_HOLE)
_STATUS = int(Chunk.BLOCK_STATUS)
_STATUS_EXT = int(Chunk.BLOCK_STATUS_EXT)
_ERROR = int(Chunk.ERROR)
_OFFSET_SIZE = CHUNK_OFFSET.size


class Replies:
    """Replies to requests of a client with which ``mode`` was agreed."""

    def __init__(self, mode: Mode) -> None:
        self._structured = mode >= Mode.STRUCTURED
        self._extended = mode >= Mode.EXTENDED
        self.extent_size = (EXTENDED_EXTENT if self._extended else EXTENT).size
        """Bytes of a packed extent."""

    def _chunk(self, request: Request, kind: int, length: int, *, last: bool) -> bytes:
        """Return the header of a chunk with ``length`` bytes of data."""
        flags = _DONE if last else 0
        if self._extended:
            return EXTENDED_CHUNK.pack(
                EXTENDED_REPLY_MAGIC, flags, kind, request.cookie, request.offset, length
            )
        return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, length)

    def success(self, request: Request) -> bytes:
        """Return the reply to a request that was done; the data of a read may follow."""
        if self._extended:
            return self.nothing(request)
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)

    def nothing(self, request: Request) -> bytes:
        """Return the chunk that ends a reply and has no data."""
        return self._chunk(request, _NONE, 0, last=True)

    def error(self, request: Request, code: int, message: str) -> bytes:
        """Return the reply to a request that failed with an errno."""
        if not self._structured:
            return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error_to_wire(code), request.cookie)
        text = pack_text(message)[:MAX_STRING]
        data = CHUNK_ERROR.pack(error_to_wire(code), len(text)) + text
        return self._chunk(request, _ERROR, len(data), last=True) + data

    def data_header(self, request: Request, offset: int, length: int, *, last: bool) -> bytes:
        """Return what goes before ``length`` bytes of data that were read at ``offset``."""
        size = _OFFSET_SIZE + length
        if self._extended:
            return self._chunk(request, _DATA, size, last=last) + CHUNK_OFFSET.pack(offset)
        flags = _DONE if last else 0
        return DATA_HEADER.pack(STRUCTURED_REPLY_MAGIC, flags, _DATA, request.cookie, size, offset)

    def hole(self, request: Request, offset: int, length: int, *, last: bool) -> bytes:
        """Return the chunk that says that a range reads as zeroes."""
        head = self._chunk(request, _HOLE, CHUNK_HOLE.size, last=last)
        return head + CHUNK_HOLE.pack(offset, length)

    def block_status(self, request: Request, context: int, extents: bytes, *, last: bool) -> bytes:
        """Return the extents of one metadata context, which are packed already."""
        if self._extended:
            kind = _STATUS_EXT
            head = EXTENTS_HEADER.pack(context, len(extents) // EXTENDED_EXTENT.size)
        else:
            kind, head = _STATUS, U32.pack(context)
        return self._chunk(request, kind, len(head) + len(extents), last=last) + head + extents

    def pack_extents(self, extents: Iterable[tuple[int, int]]) -> bytes:
        """Return extents, pairs of bytes and status, as they are sent."""
        layout = EXTENDED_EXTENT if self._extended else EXTENT
        return b"".join([layout.pack(length, status) for length, status in extents])

    def pack_turns(self, lengths: array[int], status: int) -> bytes:
        """Return extents, by turns of no status (whose first length may be 0) and ``status``."""
        code = "Q" if self._extended else "I"
        numbers = array(code, bytes(self.extent_size * len(lengths)))
        numbers[0::2] = lengths if lengths.typecode == code else array(code, lengths)
        numbers[3::4] = array(code, [status]) * (len(lengths) // 2)
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers.tobytes() if lengths[0] else numbers[2:].tobytes()
