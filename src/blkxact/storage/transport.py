"""What protocols may rely on in a transport, whichever event loop made it.

* Its class says nothing: uvloop's transports have asyncio's methods, but not asyncio's classes.
* ``resume_writing`` is called from within the transport, which goes on with its own work when it
  returns. If the connection was closed, or found broken, in that call, asyncio closes it twice
  (``AttributeError: 'NoneType' object has no attribute 'connection_lost'``). A protocol therefore
  neither writes nor closes in ``resume_writing``, but in a callback of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import cast

from .api import Buffer


def as_stream(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Return the transport of a connected stream socket as what it is."""
    return cast("asyncio.Transport", transport)


class Writer:
    """Writes buffers to a transport: with one system call and no copy where the socket is plain.

    Over TLS, and with transports that have no socket, they are joined.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        plain = transport.get_extra_info("sslcontext") is None
        socket = transport.get_extra_info("socket") if plain else None
        self._fd: int = -1 if socket is None else socket.fileno()

    def write(self, buffers: list[Buffer]) -> None:
        """Write buffers one after the other; the transport is not closing."""
        if self._fd >= 0 and not self._transport.get_write_buffer_size():
            try:
                sent = os.writev(self._fd, buffers)
            except OSError:
                sent = 0  # the transport meets it again, and knows what to do
            buffers = _after(buffers, sent)
        if buffers:
            self._transport.write(buffers[0] if len(buffers) == 1 else b"".join(buffers))


def _after(buffers: list[Buffer], size: int) -> list[Buffer]:
    """Return what comes after the first ``size`` bytes."""
    for at, buffer in enumerate(buffers):
        if size < len(buffer):
            return [memoryview(buffer)[size:], *buffers[at + 1 :]] if size else buffers[at:]
        size -= len(buffer)
    return []


class PacedProtocol(asyncio.BufferedProtocol):
    """A side of a connection that writes, and reads, only when the other side keeps up."""

    def __init__(self) -> None:
        self._choked = False
        """The other side reads too slowly: nothing more is written for now."""
        self._reading = True

    def pause_writing(self) -> None:
        """Begin nothing more for now."""
        self._choked = True

    def resume_writing(self) -> None:
        """Go on with what waited, once the transport has returned."""
        asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._choked = False
        self._unchoked()

    def _unchoked(self) -> None:
        """Go on with what waited for the other side to read."""
        raise NotImplementedError

    def _set_reading(self, transport: asyncio.Transport, *, wanted: bool) -> None:
        """Read from the transport, or stop."""
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()
