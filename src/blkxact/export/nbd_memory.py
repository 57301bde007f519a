"""What the clients of one NBD server make it hold.

While the sum is too large, whoever holds something begins no more requests; a client that holds
nothing may always begin one, so clients that do not read cannot keep others out.
"""

from __future__ import annotations

from typing import Final

from blkxact.nbd.protocol import MAX_PAYLOAD, Command
from blkxact.nbd.request_stream import Request
from blkxact.storage.held_memory import HeldMemory

MAX_BYTES_HELD: Final = 64 << 20
"""Bytes of requests under way and of replies that were not read, of all clients of a server."""

MAX_BYTES_IN_FLIGHT: Final = 64 << 20
"""Bytes that one client's requests under way read and write; the one that goes beyond it is the
last to begin."""

_MOVE_DATA: Final = (int(Command.READ), int(Command.WRITE))


class Memory(HeldMemory):
    """What the clients of one server hold."""

    __slots__ = ()

    @property
    def is_full(self) -> bool:
        """Whether no more should be begun."""
        return self.held >= MAX_BYTES_HELD


class Share:
    """What one client holds of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.in_flight = 0
        """Bytes that its requests under way read and write."""
        self._held = 0

    @property
    def is_full(self) -> bool:
        """Whether the client should begin nothing more."""
        return self.in_flight >= MAX_BYTES_IN_FLIGHT or (self._memory.is_full and self._held > 0)

    def count(self, unread: int) -> None:
        """Count what the client holds now; ``unread`` bytes of it are output."""
        held = self.in_flight + unread
        self._memory.add(held - self._held)
        self._held = held


def memory_of(request: Request) -> int:
    """Return how many bytes a request takes while it is under way."""
    return min(request.length, MAX_PAYLOAD) if request.command in _MOVE_DATA else 0
