"""The qtest socket: tests that drive QEMU's machine by hand say so here.

There is no machine: whatever is asked for is done. Only the clock is looked at by tests, and it
tells the nanoseconds that it was moved by.

QEMU's counterpart: ``softmmu/qtest.c``.
"""

from __future__ import annotations

import asyncio
from socket import socket
from typing import Final

from .options import Address, FdAddress, InetAddress, UnixAddress

_MOVES: Final = {"clock_step": 1, "clock_set": 0}
"""Commands with a time, and whether it is added."""


class QtestProtocol(asyncio.Protocol):
    """One connection: a line in, a line out."""

    def __init__(self) -> None:
        self._unread = b""
        self._clock_ns = 0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole line."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._transport.write(self._answer(line.decode(errors="replace").split()) + b"\n")

    def _answer(self, words: list[str]) -> bytes:
        if not words:
            return b"FAIL Unknown command ''"
        if words[0] in _MOVES:
            step = int(words[1], 0) if len(words) > 1 else 0
            self._clock_ns = self._clock_ns * _MOVES[words[0]] + step
            return b"OK %d" % self._clock_ns
        return b"OK"


async def connect_qtest(address: Address) -> None:
    """Serve the test at the other end. Raises ``OSError``."""
    loop = asyncio.get_running_loop()
    match address:
        case UnixAddress(path):
            await loop.create_unix_connection(QtestProtocol, path)
        case FdAddress(fd):
            await loop.connect_accepted_socket(QtestProtocol, socket(fileno=fd))
        case InetAddress(host, port):
            await loop.create_connection(QtestProtocol, host, port)
