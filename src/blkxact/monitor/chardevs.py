"""Opened chardevs: the sockets, or standard input and output, that monitors are put on.

Invariants:

* A server's socket listens from the moment its chardev is made, so clients can connect; they are
  served once all of the emulator is made.
* With ``wait`` the first client is taken before the next thing is made.

QEMU's counterpart: ``chardev/char-socket.c``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from blkxact.errors import QmpError, strerror
from blkxact.machine.options import (
    Address,
    Chardev,
    ChardevSocket,
    ChardevStdio,
    FdAddress,
    InetAddress,
    UnixAddress,
)
from blkxact.runtime.clock import Clock
from blkxact.runtime.record import Record
from blkxact.storage.acceptor import BACKLOG
from blkxact.storage.sockets import (
    Inode,
    address_text,
    bind_inet,
    bind_unix,
    check_unix_path,
    inode_of,
    unlink_if_same,
)

if TYPE_CHECKING:
    from .reconnecting import Reconnecting

SOCKET_MODE = 0o600
"""Of a Unix socket's file: only its owner can connect."""


class Endpoint(Record):
    """One chardev, opened. A chardev that nobody connects to has neither socket."""

    address: str = ""
    """Where it listens or is connected: ``unix:PATH``, ``tcp:HOST:PORT``."""
    listener: socket.socket | None = None
    client: socket.socket | None = None
    path: str | None = None
    inode: Inode | None = None
    """Of ``path``, to know it as ours."""
    is_stdio: bool = False
    in_use: bool = False
    """A monitor is on it."""
    reconnecting: Reconnecting | None = None
    """Connects once a monitor is on it, and again."""

    def close(self) -> None:
        """Close what no monitor has taken over."""
        for one in (self.listener, self.client):
            if one is not None:
                one.close()
        if self.listener is not None and self.path is not None and self.inode is not None:
            unlink_if_same(self.path, self.inode)
        self.listener = self.client = None


async def open_chardev(chardev: Chardev, announce: Callable[[str], None], clock: Clock) -> Endpoint:
    """Open a chardev; raises ``QmpError``.

    ``announce`` is called with a message before a client is waited for.
    """
    if isinstance(chardev, ChardevStdio):
        return Endpoint(address="standard input", is_stdio=True)
    if not isinstance(chardev, ChardevSocket):
        return Endpoint()
    if chardev.reconnect_s:
        return _keep_connecting(chardev, clock)
    if not chardev.server:
        return await _connect(chardev.address)
    endpoint = _listen(chardev.address)
    if chardev.wait:
        assert endpoint.listener is not None
        announce(f"info: QEMU waiting for connection on: disconnected:{endpoint.address},server=on")
        try:
            loop = asyncio.get_running_loop()
            endpoint.client, _ = await loop.sock_accept(endpoint.listener)
        except BaseException:
            endpoint.close()
            raise
    return endpoint


def _keep_connecting(chardev: ChardevSocket, clock: Clock) -> Endpoint:
    from .reconnecting import Reconnecting  # noqa: PLC0415 - few chardevs are clients

    async def connect() -> socket.socket:
        client = (await _connect(chardev.address)).client
        assert client is not None
        return client

    return Endpoint(str(chardev), reconnecting=Reconnecting(chardev, connect, clock))


def _listen(address: Address) -> Endpoint:
    path: str | None = None
    match address:
        case UnixAddress():
            path = address.path
            bound = bind_unix(path, SOCKET_MODE)
        case InetAddress(host, port, to, ipv4, ipv6):
            bound = bind_inet(host, port, last_port=to, ipv4=ipv4, ipv6=ipv6)
        case FdAddress(fd):
            bound = _passed_in(fd)
            if bound.family == socket.AF_UNIX:
                path = os.fsdecode(bound.getsockname()) or None
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise QmpError(f"Failed to listen on socket: {strerror(error)}") from error
    bound.setblocking(False)
    inode = None
    if path is not None:
        try:
            inode = inode_of(path)
        except OSError:
            path = None
    return Endpoint(address_text(bound), bound, path=path, inode=inode)


async def _connect(address: Address) -> Endpoint:
    match address:
        case FdAddress(fd):
            connected = _passed_in(fd)
            connected.setblocking(False)
            return Endpoint("a socket passed in", client=connected)
        case UnixAddress(path):
            check_unix_path(path)
            client = await _connected(socket.AF_UNIX, path, path)
            return Endpoint(f"unix:{path}", client=client)
        case InetAddress(host, port):
            return await _connect_inet(host, port)


async def _connect_inet(host: str, port: str) -> Endpoint:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise QmpError(f"address resolution failed for {host}:{port}: {error.strerror}") from error
    refusal: QmpError | None = None
    for family, _, _, _, place in found:
        try:
            client = await _connected(family, place, f"{host}:{port}")
        except QmpError as error:
            refusal = error
        else:
            return Endpoint(f"tcp:{host}:{port}", client=client)
    raise refusal or QmpError(f"address resolution failed for {host}:{port}")


async def _connected(family: int, place: object, name: str) -> socket.socket:
    client = socket.socket(family)
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, place)  # type: ignore[arg-type]
    except OSError as error:
        client.close()
        raise QmpError(f"Failed to connect to '{name}': {strerror(error)}") from error
    except BaseException:
        client.close()
        raise
    return client


def _passed_in(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOTSOCK):
            raise QmpError(f"File descriptor '{fd}': {strerror(error)}") from error
        raise QmpError(f"File descriptor '{fd}' is not a socket") from error
