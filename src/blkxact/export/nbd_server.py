"""The NBD server: a listening socket and the clients that came by it.

Invariants:

* At the most ``max_connections`` clients are served; others wait in the socket's queue, as in QEMU.
* Clients choose among the exports of ``exports``; the server itself knows none.

QEMU's counterpart: ``blockdev-nbd.c``. Addresses: ``storage/sockets.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from typing import Final

from blkxact.errors import QmpError
from blkxact.qapi.block_export import HANDSHAKE_MAX_SECONDS
from blkxact.qapi.sockets import InetSocketAddress, UnixSocketAddress
from blkxact.runtime.clock import Clock
from blkxact.runtime.counts import NbdStatistics
from blkxact.storage.acceptor import Acceptor
from blkxact.storage.sockets import (
    Inode,
    address_text,
    bind_inet,
    bind_unix,
    inode_of,
    set_keep_alive,
    unlink_if_same,
)

from .exports import Exports
from .nbd_connection import NbdConnection
from .nbd_memory import Memory

MAX_CONNECTIONS: Final = 256
"""Clients at a time where the user sets no limit."""
SEND_BUFFER: Final = 1 << 20
"""Bytes that are asked of the system for what a client has not read yet."""


class NbdServer:
    """The NBD server of one emulator, running or not."""

    def __init__(self, exports: Exports, clock: Clock) -> None:
        self.exports = exports
        self.clock = clock
        self.memory = Memory()
        self.tls: ssl.SSLContext | None = None
        self.handshake_s = HANDSHAKE_MAX_SECONDS
        self._acceptor: Acceptor | None = None
        self.address: str | None = None
        """Where clients are taken: ``unix:PATH`` or ``tcp:HOST:PORT``."""
        self._unlink: tuple[str, Inode] | None = None
        self._limit = MAX_CONNECTIONS
        self._connections: set[NbdConnection] = set()
        self._numbers = itertools.count(1)
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether clients are taken."""
        return self._acceptor is not None

    def statistics(self) -> NbdStatistics:
        """Return how many clients there are, and what they hold."""
        clients = tuple(connection.statistics() for connection in self._connections)
        return NbdStatistics(self.memory.held, clients)

    def start(
        self,
        address: InetSocketAddress | UnixSocketAddress | socket.socket,
        *,
        max_connections: int = 0,
        handshake_s: int = HANDSHAKE_MAX_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take clients (nbd-server-start); 0 connections are ``MAX_CONNECTIONS``.

        A client has ``handshake_s`` seconds for its handshake, with 0 as long as it likes.
        A socket is one that is bound already; it belongs to the server from now on.
        Raises ``QmpError``.
        """
        if self.running:
            raise QmpError("NBD server already running")
        if isinstance(address, socket.socket):
            listener = address
        elif isinstance(address, UnixSocketAddress):
            if address.abstract:
                raise QmpError("Abstract Unix sockets are not supported")
            listener = bind_unix(address.path, 0o600)
            self._unlink = address.path, inode_of(address.path)
        else:
            # Who is let in by a certificate may come from anywhere.
            known = tls is not None and tls.verify_mode is ssl.CERT_REQUIRED
            listener = _bind_inet(address, anywhere=known)
        self.address = address_text(listener)
        self._limit = max_connections or MAX_CONNECTIONS
        self.handshake_s = handshake_s
        self.tls = tls
        self.exports.served = True
        self.exports.multi_conn = max_connections != 1
        self._acceptor = Acceptor(
            listener, "NBD", self.clock, has_room=self._has_room, on_client=self._take
        )

    async def stop(self) -> None:
        """Remove all exports and disconnect all clients (nbd-server-stop). Raises ``QmpError``."""
        if not self.running:
            raise QmpError("NBD server not running")
        if self._unlink is not None:
            unlink_if_same(*self._unlink)
        await self.close()

    async def close(self) -> None:
        """End the server, if it runs; returns when all exports are gone.

        The file of a Unix socket stays at the end of the process, as QEMU's does, which programs
        that start it remove; the next server replaces a file at which nobody listens.
        """
        self.exports.served = False
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.close()
        self.address = self._unlink = None
        for connection in list(self._connections):
            connection.disconnect()
        await self.exports.close_all()
        self.tls = None

    def sever(self) -> None:
        """Disconnect all clients and take no more; exports are left as they are."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.close()
        for connection in list(self._connections):
            connection.disconnect()

    def next_client(self) -> int:
        """Return the number of a new client; they are counted since the emulator's start."""
        return next(self._numbers)

    def forget(self, connection: NbdConnection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)
        self.memory.give_back()
        if self._acceptor is not None:
            self._acceptor.update()

    # Accepting

    def _has_room(self) -> bool:
        return len(self._connections) < self._limit

    def _take(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection = NbdConnection(self)
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._connect(connection, client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: NbdConnection, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        except OSError:
            client.close()
            self.forget(connection)


def _bind_inet(address: InetSocketAddress, *, anywhere: bool) -> socket.socket:
    listener = bind_inet(
        address.host,
        address.port,
        last_port=address.to,
        ipv4=address.ipv4,
        ipv6=address.ipv6,
        anywhere=anywhere,
    )
    try:
        set_keep_alive(listener, address)
    except QmpError:
        listener.close()
        raise
    return listener
