"""Replies of a server, packed: simple ones, and structured ones in chunks.

Functions return lists of buffers, so that data is sent as it was read.

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
    DATA_HEADER,
    EXTENT,
    MAX_STRING,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    U32,
    Chunk,
    ChunkFlag,
    error_to_wire,
    pack_text,
)

_DONE = int(ChunkFlag.DONE)
_DATA = int(Chunk.OFFSET_DATA)
_HOLE = int(Chunk.OFFSET_HOLE)
_STATUS = int(Chunk.BLOCK_STATUS)
_ERROR = int(Chunk.ERROR)


def simple(cookie: int, code: int = 0) -> bytes:
    """Return a simple reply: well, or an errno."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error_to_wire(code) if code else 0, cookie)


def done(cookie: int) -> bytes:
    """Return the chunk that ends a structured reply without a word."""
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, _DONE, Chunk.NONE, cookie, 0)


def data_header(cookie: int, offset: int, length: int, *, last: bool) -> bytes:
    """Return what goes before ``length`` bytes of data that were read at ``offset``."""
    flags = _DONE if last else 0
    return DATA_HEADER.pack(STRUCTURED_REPLY_MAGIC, flags, _DATA, cookie, length + 8, offset)


def hole(cookie: int, offset: int, length: int, *, last: bool) -> bytes:
    """Return the chunk that says that a range reads as zeroes."""
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, _DONE if last else 0, _HOLE, cookie, CHUNK_HOLE.size)
    return head + CHUNK_HOLE.pack(offset, length)


def error(cookie: int, code: int, message: str, *, structured: bool) -> bytes:
    """Return the reply to a request that failed with an errno."""
    if not structured:
        return simple(cookie, code)
    text = pack_text(message)[:MAX_STRING]
    data = CHUNK_ERROR.pack(error_to_wire(code), len(text)) + text
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, _DONE, _ERROR, cookie, len(data)) + data


def block_status(
    cookie: int, context: int, extents: Iterable[tuple[int, int]], *, last: bool
) -> bytes:
    """Return the extents of one metadata context: pairs of bytes and status."""
    return packed_block_status(cookie, context, pack_extents(extents), last=last)


def packed_block_status(cookie: int, context: int, extents: bytes, *, last: bool) -> bytes:
    """Return the extents of one metadata context, which are packed already."""
    length = U32.size + len(extents)
    flags = _DONE if last else 0
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, _STATUS, cookie, length)
    return head + U32.pack(context) + extents


def pack_extents(extents: Iterable[tuple[int, int]]) -> bytes:
    """Return extents, pairs of bytes and status, as they are sent."""
    return b"".join([EXTENT.pack(length, status) for length, status in extents])


def pack_turns(lengths: array[int], status: int) -> bytes:
    """Return extents, by turns of no status (whose first length may be 0) and ``status``."""
    numbers = array("I", bytes(2 * lengths.itemsize * len(lengths)))
    numbers[0::2] = lengths
    numbers[3::4] = array("I", [status]) * (len(lengths) // 2)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes() if lengths[0] else numbers[2:].tobytes()
