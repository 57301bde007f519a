"""The qtest socket: tests that drive QEMU's machine by hand connect here.

There is no machine: whatever is asked for is done. Only the clock counts: it stands still until a
test moves it, and throttled requests wait for it. What comes and goes is logged with the seconds
since the connection began, as tests expect it on standard error.

QEMU's counterpart: ``softmmu/qtest.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from socket import socket
from typing import Final

from blkxact.machine.options import Address, FdAddress, InetAddress, UnixAddress
from blkxact.runtime.clock import Clock, SteppedClock
from blkxact.storage.transport import as_stream

_MOVES: Final = {"clock_step": 1, "clock_set": 0}
"""Commands with a time, and whether it is added."""


class QtestProtocol(asyncio.Protocol):
    """One connection: a line in, a line out."""

    def __init__(self, clock: SteppedClock, real: Clock, log: Callable[[str], None]) -> None:
        self._unread = b""
        self._clock = clock
        self._real = real
        self._log = log
        self._began = 0.0
        self._is_open = False
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = as_stream(transport)
        self._began = self._real.monotonic()
        self._is_open = True
        self._log("[I 0.000000] OPENED\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Log the end."""
        del exc
        if self._is_open:
            self._is_open = False
            self._note("I", " CLOSED")

    def close(self) -> None:
        """End the connection."""
        self.connection_lost(None)
        self._transport.abort()

    def _note(self, kind: str, text: str) -> None:
        self._log(f"[{kind} +{self._real.monotonic() - self._began:.6f}]{text}\n")

    def data_received(self, data: bytes) -> None:
        """Answer every whole line."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            self._note("R", "".join(f" {word}" for word in words))
            answer = self._answer(words)
            self._note("S", f" {answer.decode()}")
            self._transport.write(answer + b"\n")

    def _answer(self, words: list[str]) -> bytes:
        if not words:
            return b"FAIL Unknown command ''"
        if words[0] in _MOVES:
            step = int(words[1], 0) if len(words) > 1 else 0
            self._clock.move(self._clock.now_ns * _MOVES[words[0]] + step)
            return b"OK %d" % self._clock.now_ns
        return b"OK"


async def connect_qtest(
    address: Address, clock: SteppedClock, real: Clock, log: Callable[[str], None]
) -> QtestProtocol:
    """Serve the test at the other end, which moves ``clock``. Raises ``OSError``.

    Lines of the log are timed by ``real``.
    """
    loop = asyncio.get_running_loop()
    protocol = partial(QtestProtocol, clock, real, log)
    match address:
        case UnixAddress(path):
            _, one = await loop.create_unix_connection(protocol, path)
        case FdAddress(fd):
            _, one = await loop.connect_accepted_socket(protocol, socket(fileno=fd))
        case InetAddress(host, port):
            # A service's name will do for the port, whatever typeshed says.
            _, one = await loop.create_connection(protocol, host, port)  # type: ignore[call-overload]
    return one
