"""From the bytes of a client to its requests, with as few copies as can be.

Laws:

* The caller receives right into the stream's buffers. The payload of a write is a view of where it
  was received; one of ``DIRECT_SIZE`` bytes and more gets a buffer of its own.
* A view may be used until the next ``get_buffer``. Who needs it longer says so with ``hold``: the
  stream goes on in another buffer then.
* The stream holds one buffer of ``READ_SIZE``, one payload that is being received, and
  ``MAX_SPARE`` used ones.

Source: the NBD protocol specification, "Request message".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .protocol import MAX_PAYLOAD, REQUEST, REQUEST_MAGIC, Command, ProtocolError

READ_SIZE: Final = 256 << 10
"""Bytes that one call receives at the most, but for large payloads."""
DIRECT_SIZE: Final = 64 << 10
"""Bytes of a payload that is received into its own buffer."""
MAX_SPARE: Final = 4
"""Buffers of payloads that are kept to be used again."""
_LEAST_ROOM: Final = DIRECT_SIZE + REQUEST.size
"""Room at the end of the buffer below which its contents are moved to the front."""

_WRITE: Final = int(Command.WRITE)
_HEADER_SIZE: Final = REQUEST.size


class Request(NamedTuple):
    """One request. ``payload`` is there for a write, unless it is too long to be received."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | None = None


class RequestStream:
    """The requests of one client."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._start = 0
        self._end = 0
        self._held = False
        self._direct: memoryview | None = None
        """The payload that is being received, of the request whose header is ``_header``."""
        self._filled = 0
        self._header: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
        self._spare: list[memoryview] = []

    @property
    def starved(self) -> bool:
        """Whether nothing has come that is not taken yet."""
        return self._start == self._end and self._direct is None

    def get_buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        if self._direct is not None:
            return self._direct[self._filled :]
        if self._held:
            self._move(memoryview(bytearray(READ_SIZE)))
            self._held = False
        elif self._start == self._end:
            self._start = self._end = 0
        elif READ_SIZE - self._end < _LEAST_ROOM:
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

    def hold(self) -> None:
        """Keep the views that were given out as they are."""
        self._held = True

    def give_back(self, payload: memoryview) -> None:
        """Let a payload's own buffer be used again."""
        if len(payload) >= DIRECT_SIZE and len(self._spare) < MAX_SPARE:
            self._spare.append(payload)

    def next_request(self) -> Request | None:
        """Return the next complete request; raises ``ProtocolError``."""
        if self._direct is not None:
            return self._direct_request()
        start = self._start
        ready = self._end - start - _HEADER_SIZE
        if ready < 0:
            return None
        magic, flags, command, cookie, offset, length = REQUEST.unpack_from(self._buffer, start)
        if magic != REQUEST_MAGIC:
            raise ProtocolError(f"invalid magic (got 0x{magic:x})")
        start += _HEADER_SIZE
        if command != _WRITE or length > MAX_PAYLOAD:
            self._start = start
            return Request(flags, command, cookie, offset, length)
        if length >= DIRECT_SIZE:
            self._start = start
            self._begin_direct((flags, command, cookie, offset, length))
            return self._direct_request()
        if ready < length:
            return None
        self._start = end = start + length
        return Request(flags, command, cookie, offset, length, self._buffer[start:end])

    def _begin_direct(self, header: tuple[int, int, int, int, int]) -> None:
        length = header[-1]
        spare = next((one for one in self._spare if len(one) == length), None)
        if spare is not None:
            self._spare = [one for one in self._spare if one is not spare]
        payload = memoryview(bytearray(length)) if spare is None else spare
        ready = min(self._end - self._start, length)
        payload[:ready] = self._buffer[self._start : self._start + ready]
        self._start += ready
        self._header, self._direct, self._filled = header, payload, ready

    def _direct_request(self) -> Request | None:
        payload = self._direct
        assert payload is not None
        if self._filled < len(payload):
            return None
        self._direct = None
        return Request(*self._header, payload)
