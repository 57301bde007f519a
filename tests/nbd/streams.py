"""Bytes that are put into a stream of requests or of replies, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator

from blkxact.nbd.reply_stream import Answer, ReplyStream
from blkxact.nbd.request_stream import Request, RequestStream

PIECE = 1 << 20
"""A piece that is longer than what most tests say."""


def put(stream: RequestStream | ReplyStream, data: bytes) -> int:
    """Put in as much as one buffer takes; return how much."""
    room = stream.get_buffer()
    size = min(len(room), len(data))
    assert size > 0
    room[:size] = data[:size]
    stream.received(size)
    return size


def _pieces(stream: RequestStream | ReplyStream, data: bytes, piece: int) -> Iterator[None]:
    """Put all of it in, ``piece`` bytes at a time at the most."""
    at = 0
    while at < len(data):
        at += put(stream, data[at : at + piece])
        yield


def requests(stream: RequestStream) -> list[tuple[Request, bytes | None]]:
    """Return the requests that are complete, and their payloads apart."""
    found = []
    while (one := stream.next_request()) is not None:
        payload = None if one.payload is None else bytes(one.payload)
        found.append((one._replace(payload=None), payload))
        if one.payload is not None:
            stream.give_back(one.payload)
    return found


def requests_in(
    stream: RequestStream, data: bytes, piece: int = PIECE
) -> list[tuple[Request, bytes | None]]:
    """Return the requests in ``data``, and their payloads apart."""
    return [one for _ in _pieces(stream, data, piece) for one in requests(stream)]


def answers_in(stream: ReplyStream, data: bytes, piece: int = PIECE) -> list[Answer]:
    """Return the answers in ``data``."""
    found = []
    for _ in _pieces(stream, data, piece):
        while (answer := stream.next_answer()) is not None:
            found.append(answer)
    return found
