"""A network in memory that cuts what is sent, is slow, and breaks; implements ``Network``.

Invariants:

* The bytes of one direction arrive in their order, in pieces whose sizes come from the seed.
* A side that does not read holds its peer up: not more than ``BUFFER_SIZE`` is under way.
* ``break_all`` ends every connection, and what was under way is gone. A closed connection delivers
  what was sent before.
"""

# ruff: noqa: SLF001 - the two ends of a connection are one thing

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable
from typing import Any

from blkxact.errors import QmpError
from blkxact.qapi.sockets import UnixSocketAddress
from blkxact.runtime.steps import yield_turn
from blkxact.storage.api import SocketAddress

BUFFER_SIZE = 64 << 10
"""Most bytes that are under way in one direction."""

Factory = Callable[[], asyncio.BufferedProtocol]


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, protocol: asyncio.BufferedProtocol, source: random.Random) -> None:
        super().__init__()
        self.protocol = protocol
        self._random = source
        self._peer: MemoryTransport
        self._outgoing = bytearray()
        self._reading = True
        self._choked = False
        self._closing = False
        self._ended = False
        self._scheduled = False
        self._high = BUFFER_SIZE

    def join(self, peer: MemoryTransport) -> None:
        """Be one end of a connection whose other end is ``peer``."""
        self._peer, peer._peer = peer, self
        for end in (self, peer):
            end.protocol.connection_made(end)

    # What protocols call

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take the mark above which the protocol has to pause."""
        del low
        self._high = BUFFER_SIZE if high is None else high

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send."""
        if self._closing or self._ended:
            return
        self._outgoing += data
        self._schedule()
        if len(self._outgoing) > self._high and not self._choked:
            self._choked = True
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        """Take nothing for now."""
        self._reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self._reading = True
        self._peer._schedule()

    def is_closing(self) -> bool:
        """Return whether the end has come, or is going to."""
        return self._closing or self._ended

    def close(self) -> None:
        """Close when all is delivered."""
        self._closing = True
        self._schedule()

    def abort(self) -> None:
        """Close at once, both ends."""
        self._outgoing.clear()
        self._peer._outgoing.clear()
        for end in (self, self._peer):
            end._end()

    # The way of the bytes

    def _schedule(self) -> None:
        if not self._scheduled and not self._ended:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand the peer a piece of what was sent."""
        self._scheduled = False
        peer = self._peer
        if self._ended:
            return
        if peer._ended:  # as with a pipe that nobody reads any more
            self._end()
            return
        if self._outgoing and peer._reading:
            room = memoryview(peer.protocol.get_buffer(-1))
            size = min(len(self._outgoing), len(room), self._piece_size())
            room[:size] = self._outgoing[:size]
            del self._outgoing[:size]
            peer.protocol.buffer_updated(size)
            if self._choked and len(self._outgoing) <= self._high // 4:
                self._choked = False
                self.protocol.resume_writing()
        if self._outgoing and peer._reading:
            self._schedule()
        elif self._closing and not self._outgoing:
            peer._hang_up()
            self._end()

    def _piece_size(self) -> int:
        return self._random.choice((1, 10, 1000, BUFFER_SIZE, BUFFER_SIZE))

    def _hang_up(self) -> None:
        """Note that the peer sends nothing more."""
        if not self._ended and not self.protocol.eof_received():
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class MemoryNetwork:
    """Servers by the paths of their Unix sockets. ``connections`` counts those that were made."""

    def __init__(self, source: random.Random) -> None:
        self.connections = 0
        self._random = source
        self._servers: dict[str, Factory] = {}
        self._ends: list[MemoryTransport] = []

    def listen(self, path: str, factory: Factory) -> None:
        """Let a server take connections; ``factory`` makes its side of each."""
        self._servers[path] = factory

    def stop(self, path: str) -> None:
        """Let nobody connect any more."""
        self._servers.pop(path, None)

    def break_all(self) -> None:
        """End all connections."""
        ends, self._ends = self._ends, []
        for end in ends:
            end.abort()

    async def connect(self, address: SocketAddress, factory: Factory) -> asyncio.Transport:
        """Connect; raises ``QmpError``."""
        await yield_turn()
        assert isinstance(address, UnixSocketAddress)
        server = self._servers.get(address.path)
        if server is None:
            raise QmpError(f"Failed to connect to '{address.path}': {os.strerror(2)}")
        self.connections += 1
        here = MemoryTransport(factory(), self._random)
        here.join(MemoryTransport(server(), self._random))
        self._ends.append(here)
        await yield_turn()
        return here

    async def start_tls(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        hostname: str | None,
    ) -> asyncio.Transport:
        """Refuse: there is nobody to hide from."""
        raise NotImplementedError
