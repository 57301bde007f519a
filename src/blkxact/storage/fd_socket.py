"""A Unix socket that keeps the file descriptors which come with the data (SCM_RIGHTS).

asyncio's transports read with ``recv_into`` and drop descriptors. A socket of this class has the
same method, which sets them aside.

QEMU's counterpart: ``tcp_chr_recv()`` and ``tcp_get_msgfds()`` in ``chardev/char-socket.c``.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterable
from typing import Any, Final

MAX_DESCRIPTORS: Final = 16
"""Descriptors that are taken with one read (``TCP_MAX_FDS``); the kernel closes the others."""

_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)


class FdSocket(socket.socket):
    """The socket of a client; it takes over ``connected``."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(fileno=connected.detach())
        self.setblocking(False)
        self._received: list[int] = []

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read as a socket does; descriptors replace those that nobody has taken."""
        del nbytes
        count, messages, _, _ = self.recvmsg_into(
            (buffer,), _ANCILLARY_SIZE, flags | _CLOSE_ON_EXEC
        )
        if not messages:
            return count
        received = array("i")
        for level, kind, data in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
        if received:
            _close(self._received)
            self._received = list(received)
        return count

    def take_descriptor(self) -> int | None:
        """Return the first descriptor that came last, which is the caller's; close the others."""
        if not self._received:
            return None
        first, *others = self._received
        self._received = []
        _close(others)
        return first

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody has taken."""
        _close(self._received)
        self._received = []
        super().close()


def keep_descriptors(client: socket.socket) -> socket.socket:
    """Return a client's socket; one that descriptors can be passed through as ``FdSocket``."""
    return FdSocket(client) if client.family == socket.AF_UNIX else client


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)
