"""From the bytes of a client to its requests, with as few copies as can be.

Invariants:

* A payload is a view of where it was received (see ``input_buffer``): in the common
  buffer if there is room for all of it, else in a buffer of its own.
* The stream holds one buffer of ``READ_SIZE``, one payload that is being received, and
  ``MAX_SPARE`` used ones.

Source: the NBD protocol specification, "Request message".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .input_buffer import DIRECT_SIZE, LEAST_ROOM, READ_SIZE, InputBuffer
from .protocol import (
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    MAX_PAYLOAD,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    Mode,
    ProtocolError,
)

MAX_SPARE: Final = 4
"""Buffers of payloads that are kept to be used again."""

_WRITE: Final = int(Command.WRITE)
_DISC: Final = int(Command.DISC)
_PAYLOAD_LEN: Final = int(CommandFlag.PAYLOAD_LEN)


class Request(NamedTuple):
    """One request. ``length`` is that of its payload if it has one."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | None = None
    cut: bool = False
    """Its payload is too long to be received: nothing that follows can be understood."""
    contexts: Sequence[int] | None = None
    """The metadata contexts that a BLOCK_STATUS names in its payload."""


class RequestStream(InputBuffer):
    """The requests of one client. ``mode`` is what the handshake agreed."""

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self._extended = mode >= Mode.EXTENDED
        self._layout = EXTENDED_REQUEST if self._extended else REQUEST
        self._magic = EXTENDED_REQUEST_MAGIC if self._extended else REQUEST_MAGIC
        self._header: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
        """That of the request whose payload is being received."""
        self._spare: list[memoryview] = []

    def give_back(self, payload: memoryview) -> None:
        """Let a payload's buffer be used again, if it has one of its own."""
        buffer = payload.obj
        own = isinstance(buffer, bytearray) and len(buffer) == len(payload) >= DIRECT_SIZE
        if own and len(self._spare) < MAX_SPARE:
            self._spare.append(payload)

    def next_request(self) -> Request | None:
        """Return the next complete request; raises ``ProtocolError``."""
        if self._direct is not None:
            return self._direct_request()
        start = self._start
        header_size = self._layout.size
        ready = self._end - start - header_size
        self._wanted = LEAST_ROOM
        if ready < 0:
            return None
        header = self._layout.unpack_from(self._buffer, start)
        magic, flags, command, cookie, offset, length = header
        if magic != self._magic:
            raise ProtocolError(f"invalid magic (got 0x{magic:x}, expected 0x{self._magic:x})")
        start += header_size
        plain = command != _WRITE and not (
            self._extended and flags & _PAYLOAD_LEN and command != _DISC
        )
        if plain or length > MAX_PAYLOAD:
            self._start = start
            return Request(flags, command, cookie, offset, length, None, not plain)
        end = start + length
        if ready >= length:
            self._start = end
            return Request(flags, command, cookie, offset, length, self._buffer[start:end])
        if length >= DIRECT_SIZE and end > READ_SIZE:
            self._start = start
            self._begin_direct((flags, command, cookie, offset, length))
            return self._direct_request()
        self._wanted = header_size + length
        return None

    def _begin_direct(self, header: tuple[int, int, int, int, int]) -> None:
        length = header[-1]
        spare = next((one for one in self._spare if len(one) == length), None)
        if spare is not None:
            self._spare = [one for one in self._spare if one is not spare]
        payload = memoryview(bytearray(length)) if spare is None else spare
        self._header = header
        self._receive_direct(payload)

    def _direct_request(self) -> Request | None:
        payload = self._direct
        assert payload is not None
        if self._filled < len(payload):
            return None
        self._direct = None
        return Request(*self._header, payload)
