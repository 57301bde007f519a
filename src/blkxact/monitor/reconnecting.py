"""A monitor that connects to its client, again and again: a chardev with ``reconnect``.

Invariants:

* It is connected at most once at a time. Between the end of a connection, or a try that failed, and
  the next try is one period.
* The first of the tries that fail one after the other is reported, as in QEMU.

QEMU's counterpart: ``chardev/char-socket.c`` (tcp_chr_connect_client_async).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from blkxact.errors import QmpError
from blkxact.machine.options import ChardevSocket
from blkxact.runtime.clock import Clock

Connect = Callable[[], Awaitable[socket.socket]]
"""Returns a connected socket; raises ``QmpError``."""
Serve = Callable[[socket.socket], Awaitable[asyncio.Future[None]]]
"""Serves a client; returns what is done when it has gone."""

_log = logging.getLogger(__name__)


class Reconnecting:
    """One chardev, from ``start`` to ``close``."""

    def __init__(self, chardev: ChardevSocket, connect: Connect, clock: Clock) -> None:
        self._chardev = chardev
        self._connect = connect
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.is_connected = False

    def start(self, serve: Serve) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run(serve))

    async def _run(self, serve: Serve) -> None:
        reported = False
        while True:
            try:
                client = await self._connect()
            except QmpError as error:
                if not reported:
                    text = "Unable to connect character device %s: %s"
                    _log.error(text, self._chardev.id, error)
                reported = True
            else:
                reported = False
                gone = await serve(client)
                self.is_connected = True
                await asyncio.shield(gone)
                self.is_connected = False
            await self._clock.sleep(self._chardev.reconnect_s)

    async def close(self) -> None:
        """Connect no more; a connection that there is goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
