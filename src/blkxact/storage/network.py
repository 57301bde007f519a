"""Connections of the host to servers elsewhere; implements ``Network``.

QEMU's counterpart: ``util/qemu-sockets.c`` (socket_connect), ``io/channel-tls.c``, whose words the
errors are.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError
from blkxact.runtime.clock import Clock

from .api import SocketAddress
from .descriptors import Descriptors
from .sockets import address_family, check_unix_path, set_keep_alive

if TYPE_CHECKING:
    from blkxact.qapi.sockets import InetSocketAddress, UnixSocketAddress

BACKLOG_RETRY_S: Final = 0.02
"""Seconds until the next try where the queue of a Unix socket is full."""
SEND_BUFFER: Final = 1 << 20
"""Bytes that are asked of the system for what a server has not read yet."""
TLS_TIMEOUT_S: Final = 10.0
"""Seconds that a server has for its part of the TLS handshake."""
TLS_GOODBYE_S: Final = 2.0
"""Seconds that a server has to say good-bye."""

_HOSTNAME_MISMATCH: Final = frozenset({62, 64})
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_* numbers."""


class SystemNetwork:
    """The host's sockets, and those that clients have passed in."""

    def __init__(self, clock: Clock, descriptors: Descriptors | None = None) -> None:
        self._clock = clock
        self._descriptors = descriptors or Descriptors()

    async def connect(
        self, address: SocketAddress, factory: Callable[[], asyncio.BufferedProtocol]
    ) -> asyncio.Transport:
        """Connect to a server; raises ``QmpError``."""
        # The schema takes longer to load than most images that are on no server.
        from blkxact.qapi.sockets import FdSocketAddress, UnixSocketAddress  # noqa: PLC0415

        if isinstance(address, UnixSocketAddress):
            connected = await _connect_unix(address, self._clock)
        elif isinstance(address, FdSocketAddress):
            connected = self._descriptors.take_socket(address.name)
            connected.setblocking(False)
        else:
            connected = await _connect_inet(address)
        try:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(factory, sock=connected)
        except BaseException:
            connected.close()
            raise
        return transport

    async def start_tls(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        hostname: str | None,
    ) -> asyncio.Transport:
        """Encrypt a connection; raises ``QmpError``."""
        if context.check_hostname and not hostname:
            transport.abort()
            raise QmpError("No hostname for certificate validation")
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                protocol,
                context,
                server_hostname=hostname,
                ssl_handshake_timeout=TLS_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_GOODBYE_S,
            )
        except BaseException as error:
            transport.abort()
            if isinstance(error, ssl.SSLError | OSError):
                raise QmpError(_tls_error(error, hostname)) from error
            raise
        if encrypted is None:
            raise QmpError("TLS handshake failed: the connection was lost")
        return encrypted


async def _connect_unix(address: UnixSocketAddress, clock: Clock) -> socket.socket:
    path = address.path
    check_unix_path(path)
    name = path
    if address.abstract:
        name = "\0" + path if address.tight else ("\0" + path).ljust(108, "\0")
    unix = socket.socket(socket.AF_UNIX)
    try:
        unix.setblocking(False)
        # A full queue does not make the socket wait for its turn, unlike with TCP.
        while (code := unix.connect_ex(name)) == errno.EAGAIN:
            await clock.sleep(BACKLOG_RETRY_S)
        _check_connected(path, code)
    except BaseException:
        unix.close()
        raise
    return unix


def _check_connected(where: str, code: int) -> None:
    if code:
        raise QmpError(f"Failed to connect to '{where}': {os.strerror(code)}")


async def _connect_inet(address: InetSocketAddress) -> socket.socket:
    where = f"{address.host}:{address.port}"
    if not address.host or not address.port:
        raise QmpError("host and/or port not specified")
    loop = asyncio.get_running_loop()
    family = address_family(address.ipv4, address.ipv6)
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, family=family, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise QmpError(f"address resolution failed for {where}: {error.strerror}") from error
    code = errno.EADDRNOTAVAIL
    for family, kind, protocol, _, place in found:
        try:
            connected = await _connect_one(family, kind, protocol, place)
        except OSError as error:
            code = error.errno or errno.EIO
            continue
        try:
            set_keep_alive(connected, address)
        except QmpError:
            connected.close()
            raise
        return connected
    raise QmpError(f"Failed to connect to '{where}': {os.strerror(code)}")


async def _connect_one(family: int, kind: int, protocol: int, place: Any) -> socket.socket:
    connected = socket.socket(family, kind, protocol)
    try:
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, place)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connected.close()
        raise
    return connected


def _tls_error(error: OSError, hostname: str | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOSTNAME_MISMATCH:
            return f"Certificate does not match the hostname {hostname}"
        if error.verify_code in _UNKNOWN_ISSUER:
            return "The certificate hasn't got a known issuer"
        return f"The certificate is not trusted: {error.verify_message}"
    return f"TLS handshake failed: {error}"
