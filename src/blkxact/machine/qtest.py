"""The qtest socket: tests that drive QEMU's machine by hand say so here.

There is no machine: whatever is asked for is done. Only the clock counts: it stands still until a
test moves it, and throttled requests wait for it.

QEMU's counterpart: ``softmmu/qtest.c``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from socket import socket
from typing import Final

from blkxact.machine.options import Address, FdAddress, InetAddress, UnixAddress
from blkxact.runtime.clock import SteppedClock
from blkxact.storage.transport import as_stream

_MOVES: Final = {"clock_step": 1, "clock_set": 0}
"""Commands with a time, and whether it is added."""


class QtestProtocol(asyncio.Protocol):
    """One connection: a line in, a line out."""

    def __init__(self, clock: SteppedClock) -> None:
        self._unread = b""
        self._clock = clock
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = as_stream(transport)

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
            self._clock.move(self._clock.now_ns * _MOVES[words[0]] + step)
            return b"OK %d" % self._clock.now_ns
        return b"OK"


async def connect_qtest(address: Address, clock: SteppedClock) -> None:
    """Serve the test at the other end, which moves ``clock``. Raises ``OSError``."""
    loop = asyncio.get_running_loop()
    protocol = partial(QtestProtocol, clock)
    match address:
        case UnixAddress(path):
            await loop.create_unix_connection(protocol, path)
        case FdAddress(fd):
            await loop.connect_accepted_socket(protocol, socket(fileno=fd))
        case InetAddress(host, port):
            # A service's name will do for the port, whatever typeshed says.
            await loop.create_connection(protocol, host, port)  # type: ignore[call-overload]
