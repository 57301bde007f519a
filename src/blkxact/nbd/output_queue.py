"""What is to be sent, in pieces of a good size: small buffers are joined, large ones cut.

A large buffer is never copied; who queues it leaves it as it is until it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

SEND_SIZE: Final = 256 << 10
"""Bytes that are handed to the socket at a time."""
JOIN_SIZE: Final = 32 << 10
"""Bytes of small buffers that are sent as one."""

Buffer = bytes | bytearray | memoryview


class OutputQueue:
    """Buffers of bytes in the order in which they are sent. ``size``: bytes in all."""

    def __init__(self) -> None:
        self._buffers: deque[Buffer] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def add(self, buffers: Iterable[Buffer]) -> None:
        """Put buffers behind the others."""
        for buffer in buffers:
            self._buffers.append(buffer)
            self.size += len(buffer)

    def clear(self) -> None:
        """Forget all."""
        self._buffers.clear()
        self.size = 0

    def next_piece(self) -> Buffer:
        """Take what is sent with one call."""
        piece = self._take()
        self.size -= len(piece)
        return piece

    def _take(self) -> Buffer:
        buffers = self._buffers
        first = buffers.popleft()
        if len(first) > SEND_SIZE:
            view = memoryview(first)
            buffers.appendleft(view[SEND_SIZE:])
            return view[:SEND_SIZE]
        if not buffers or len(first) >= JOIN_SIZE:
            return first
        parts, size = [first], len(first)
        while buffers and size < JOIN_SIZE:
            part = buffers.popleft()
            room = SEND_SIZE - size
            if len(part) > room:
                view = memoryview(part)
                buffers.appendleft(view[room:])
                part = view[:room]
            parts.append(part)
            size += len(part)
        return b"".join(parts)
