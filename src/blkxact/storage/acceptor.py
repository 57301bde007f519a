"""Takes the clients of a listening socket, for as long as there is room for them.

* Clients that there is no room for wait in the socket's queue, as in QEMU.
* The last ``RESERVED_DESCRIPTORS`` of the process are not for clients: jobs and commands need files
  when all descriptors seem to be in use. The kernel gives out the lowest free number, so the number
  of a descriptor shows how many are left.
* That clients wait for want of descriptors is reported in one line, and again only after the queue
  has been empty.

QEMU's counterpart: ``io/net-listener.c``.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
from asyncio import get_running_loop
from collections.abc import Callable
from typing import Final

from blkxact.runtime.clock import Clock, Timer

BACKLOG: Final = 128
RESERVED_DESCRIPTORS: Final = 64
"""Descriptors that clients leave to others; a quarter of the limit if that is less."""
RETRY_S: Final = 1.0
"""Seconds after which descriptors are looked for again."""
CLIENTS_PER_TURN: Final = 16
"""Clients that are taken before others get their turn."""

_log = logging.getLogger(__name__)


def spare_descriptor() -> int:
    """Return a new descriptor, the lowest that is free; it needs no file. Raises ``OSError``."""
    return os.eventfd(0, os.EFD_CLOEXEC)


def descriptors_left() -> bool:
    """Return whether a client may have one more descriptor."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return True
    try:
        lowest = spare_descriptor()
    except OSError:
        return False
    os.close(lowest)
    return lowest < limit - min(RESERVED_DESCRIPTORS, limit // 4)


class Acceptor:
    """A listening socket, which it owns. ``name`` is what the log calls its clients.

    ``has_room`` says whether one more client may be taken; whoever makes room calls ``update``.
    ``on_client`` gets each client's socket, non-blocking, and owns it.
    """

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        clock: Clock,
        *,
        has_room: Callable[[], bool],
        on_client: Callable[[socket.socket], None],
    ) -> None:
        self._listener = listener
        self._name = name
        self._clock = clock
        self._has_room = has_room
        self._on_client = on_client
        self._accepting = False
        self._closed = False
        self._starved = False
        """Clients wait for descriptors, and the log says so."""
        self._retry: Timer | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self.update()

    def update(self) -> None:
        """Take clients if there is room."""
        if self._closed:
            return
        room = self._has_room()
        if room and not self._accepting and self._retry is None:
            self._accepting = True
            get_running_loop().add_reader(self._listener, self._accept)
        elif not room:
            self._stop()

    def close(self) -> None:
        """Take no more clients and close the socket."""
        self._closed = True
        self._stop()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._listener.close()

    def _stop(self) -> None:
        if self._accepting:
            self._accepting = False
            get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        """Take some of the clients that wait."""
        for _ in range(CLIENTS_PER_TURN):
            if self._closed or not self._has_room():
                break
            if not descriptors_left():
                self._wait("too few file descriptors are left")
                return
            try:
                client, _ = self._listener.accept()
            except (InterruptedError, ConnectionAbortedError):
                continue
            except BlockingIOError:
                self._starved = False
                break
            except OSError as error:
                self._wait(str(error))
                return
            client.setblocking(False)
            self._on_client(client)
        self.update()

    def _wait(self, why: str) -> None:
        """Try again later: nobody says when a descriptor is free."""
        self._stop()
        if not self._starved:
            self._starved = True
            _log.warning("%s clients wait: %s", self._name, why)
        self._retry = self._clock.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.update()
