"""What is to be sent, in pieces of a good size.

Buffers are neither copied nor joined; who queues one leaves it as it is until it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

SEND_SIZE: Final = (256 << 10) + 4096
"""Bytes that are handed to the socket at a time: 256 KiB, which many clients read, and headers."""
MAX_PIECES: Final = 64
"""Buffers that are handed to the socket at a time."""

Buffer = bytes | bytearray | memoryview


class OutputQueue:
    """Buffers of bytes in the order in which they are sent. ``size``: bytes in all."""

    def __init__(self) -> None:
        self._buffers: deque[Buffer] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def add(self, buffers: Iterable[Buffer]) -> None:
        """Append buffers."""
        for buffer in buffers:
            self._buffers.append(buffer)
            self.size += len(buffer)

    def clear(self) -> None:
        """Forget all."""
        self._buffers.clear()
        self.size = 0

    def next_pieces(self) -> list[Buffer]:
        """Take what is sent with one call."""
        buffers = self._buffers
        pieces: list[Buffer] = []
        room = SEND_SIZE
        while buffers and room and len(pieces) < MAX_PIECES:
            piece = buffers.popleft()
            if len(piece) > room:
                view = memoryview(piece)
                buffers.appendleft(view[room:])
                piece = view[:room]
            pieces.append(piece)
            room -= len(piece)
        self.size -= SEND_SIZE - room
        return pieces
