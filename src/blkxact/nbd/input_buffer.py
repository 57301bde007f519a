"""Where a side of the transmission phase receives: one buffer, and one for a large payload.

Invariants:

* The caller receives right into these buffers, with as few copies as can be.
* A view of the buffer may be used until the next ``get_buffer``. Who needs it longer says so with
  ``hold``: it goes on in another buffer then.
* A payload of ``DIRECT_SIZE`` bytes and more may be received into a buffer of its own.
"""

from __future__ import annotations

from typing import Final

READ_SIZE: Final = (256 << 10) + 4096
"""Most bytes that one call receives, except for larger payloads: 256 KiB, and headers."""
DIRECT_SIZE: Final = 64 << 10
"""Bytes of a payload that may be received into its own buffer."""
MAX_HEADER: Final = 64
"""Most bytes before a payload."""
LEAST_ROOM: Final = DIRECT_SIZE + MAX_HEADER
"""Bytes in one piece that the buffer has room for, whatever comes next."""


class InputBuffer:
    """What was received and not taken yet: ``_buffer`` from ``_start`` to ``_end``."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._start = 0
        self._end = 0
        self._wanted = LEAST_ROOM
        """Bytes from ``_start`` on that there must be room for."""
        self._held = False
        self._direct: memoryview | None = None
        """The large payload that is being received, ``_filled`` bytes of it so far."""
        self._filled = 0

    def get_buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        if self._direct is not None:
            return self._direct[self._filled :]
        if self._held:
            self._move(memoryview(bytearray(READ_SIZE)))
            self._held = False
        elif self._start == self._end:
            self._start = self._end = 0
        elif self._start + self._wanted > READ_SIZE or self._end == READ_SIZE:
            self._move(self._buffer)
        return self._buffer[self._end :]

    def _move(self, buffer: memoryview) -> None:
        size = self._end - self._start
        buffer[:size] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = buffer, 0, size

    def received(self, size: int) -> None:
        """Take the bytes that were put into the buffer."""
        if self._direct is not None:
            self._filled += size
        else:
            self._end += size

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes from elsewhere; they fit, if the stream was given nothing else yet."""
        room = self.get_buffer()
        assert len(data) <= len(room)
        room[: len(data)] = data
        self.received(len(data))

    def hold(self, view: memoryview) -> None:
        """Keep a view that was given out as it is."""
        if view.obj is self._buffer.obj:
            self._held = True

    def _receive_direct(self, payload: memoryview) -> None:
        """Receive all that comes next into ``payload``, after what of it has come already."""
        ready = min(self._end - self._start, len(payload))
        payload[:ready] = self._buffer[self._start : self._start + ready]
        self._start += ready
        self._direct, self._filled = payload, ready
