"""Sockets of the host to serve at: nobody is robbed of an address.

A Unix socket is replaced only if nobody listens at it, and any other file only if it is empty, as
one is that ``mktemp`` made (QEMU replaces anything). TCP is served on
loopback only, as neither QMP nor NBD asks who is there.

QEMU's counterpart: ``util/qemu-sockets.c``, whose words the errors are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError, os_error, strerror

if TYPE_CHECKING:
    from blkxact.qapi.sockets import InetSocketAddress

_KEEP_COUNT: Final = (socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
_KEEP_IDLE: Final = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
_KEEP_INTERVAL: Final = (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
INT_MAX: Final = 2**31 - 1
"""The largest value of a socket's option; no smaller one than the system takes."""
MAX_UNIX_PATH = 107
"""Bytes of a Unix socket's path."""

Inode = tuple[int, int]
"""Device and number, to know a file again."""


def inode_of(path: str) -> Inode:
    """Return what distinguishes the file at ``path`` from a later one."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def unlink_if_same(path: str, inode: Inode) -> None:
    """Remove the file at ``path`` unless it is another one by now."""
    with contextlib.suppress(OSError):
        if inode_of(path) == inode:
            os.unlink(path)  # noqa: PTH108 - one call, not on an image


def check_unix_path(path: str) -> None:
    """Raise ``QmpError`` if no Unix socket can have this path."""
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise QmpError(f"UNIX socket path '{path}' is too long")


def _remove_stale(path: str) -> None:
    """Remove a Unix socket at which nobody listens, or an empty file; raises OSError for others."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        os.unlink(path)  # noqa: PTH108 - one call, not on an image
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise os_error(errno.EADDRINUSE)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise os_error(errno.EADDRINUSE)
    os.unlink(path)  # noqa: PTH108 - one call, not on an image


def bind_unix(path: str, mode: int) -> socket.socket:
    """Return a socket bound to ``path``, never open to more than ``mode`` allows.

    Raises ``QmpError``.
    """
    check_unix_path(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        os.fchmod(bound.fileno(), mode)  # Linux gives the file the mode of the unbound socket ...
        bound.bind(path)
        os.chmod(path, mode)  # noqa: PTH101 # ... less the umask, which is not meant here
    except OSError as error:
        bound.close()
        raise QmpError(f"Failed to bind socket to {path}: {strerror(error)}") from error
    return bound


def address_text(bound: socket.socket) -> str:
    """Return where a socket is bound: ``unix:PATH``, ``tcp:HOST:PORT``, ``tcp:[::1]:PORT``."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host, port = name[:2]
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def bind_inet(
    host: str,
    port: str,
    *,
    last_port: int | None = None,
    ipv4: bool | None = None,
    ipv6: bool | None = None,
    anywhere: bool = False,
) -> socket.socket:
    """Return a socket bound as an InetSocketAddress says.

    ``port`` is a number or a service; up to ``last_port`` the first that is free is taken.
    ``ipv4`` and ``ipv6`` say which families will do; ``anywhere`` lifts the restriction to
    loopback. Raises ``QmpError``.
    """
    try:
        found = socket.getaddrinfo(
            host or None,
            port,
            family=address_family(ipv4, ipv6),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise QmpError(f"address resolution failed for {host}:{port}: {error.strerror}") from error
    if not anywhere and not all(_is_loopback(str(entry[4][0])) for entry in found):
        raise QmpError(f"'{host}' is not a loopback address")
    failure = os_error(errno.EADDRNOTAVAIL)
    for family, kind, protocol, _, address in found:
        first = int(address[1])
        for number in range(first, max(first, last_port or 0) + 1):
            try:
                return _bound(family, kind, protocol, (address[0], number, *address[2:]))
            except OSError as error:
                failure = error
    raise QmpError(f"Failed to find an available port: {strerror(failure)}") from failure


def set_keep_alive(inet: socket.socket, address: InetSocketAddress) -> None:
    """Ask a silent peer for signs of life as ``address`` says; raises ``QmpError``.

    The sockets that a listening one accepts do as it does.
    """
    if not address.keep_alive:
        return
    options = (
        ("keep-alive", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ("TCP keep-alive count", *_KEEP_COUNT, address.keep_alive_count),
        ("TCP keep-alive idle", *_KEEP_IDLE, address.keep_alive_idle),
        ("TCP keep-alive interval", *_KEEP_INTERVAL, address.keep_alive_interval),
    )
    for name, level, option, value in options:
        try:
            if value:
                inet.setsockopt(level, option, min(value, INT_MAX))
        except OSError as error:
            reason = f"Unable to set {name} option on socket: {strerror(error)}"
            raise QmpError(reason) from error


def _is_loopback(address: str) -> bool:
    import ipaddress  # noqa: PLC0415 - Unix sockets need none

    return ipaddress.ip_address(address).is_loopback


def address_family(ipv4: bool | None, ipv6: bool | None) -> int:
    """Return the family that InetSocketAddress's two switches mean."""
    if ipv4 is False and ipv6 is False:
        raise QmpError("Cannot disable IPv4 and IPv6 at same time")
    if ipv4 == ipv6:
        return socket.AF_UNSPEC
    return socket.AF_INET if ipv4 or ipv6 is False else socket.AF_INET6
