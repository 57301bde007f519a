"""One client of the human monitor: a terminal, or a script that takes itself for one.

* Lines run one at a time, in the order they came; the prompt follows the reply.
* A client that has ``MAX_BEHIND`` bytes unread, or types more than ``MAX_TYPED`` bytes ahead, is
  not read from. What it has not read counts as memory that it takes (``hold``).
* Commands go through the dispatcher, as ``human-monitor-command`` does.

QEMU's counterpart: ``monitor/hmp.c``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from blkxact.errors import QmpError
from blkxact.hmp.readline import ReadLine
from blkxact.qmp.session import Dispatcher
from blkxact.runtime.events import Event
from blkxact.runtime.release import Release
from blkxact.storage.transport import PacedProtocol, as_stream

if TYPE_CHECKING:
    from blkxact.runtime.counts import QmpClientStatistics

    from .observer import Observer

READ_SIZE: Final = 4096
"""Bytes taken from a socket at a time."""
MAX_TYPED: Final = 64 << 10
"""Bytes that wait while a command runs."""
WRITE_HIGH_WATER: Final = 256 << 10
"""Bytes that the client has not read when it is looked at how many they are."""
MAX_BEHIND: Final = 8 << 20
"""Bytes that the client has not read when its lines begin to wait."""

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who took the connection (``QmpServer``)."""

    dispatcher: Dispatcher
    release: Release
    observer: Observer | None

    def admit(self, connection: Any, address: str) -> bool:
        """Take the connection on, or say that it is to be closed."""

    def forget(self, connection: Any) -> None:
        """Drop a connection that is closed."""

    def hold(self, connection: Any, size: int) -> None:
        """Take the bytes of memory that a client holds now."""


class HmpConnection(PacedProtocol):
    """One client."""

    wants_events = False

    def __init__(self, server: Owner, address: str) -> None:
        super().__init__()
        self._server = server
        self.address = address
        self._terminal = ReadLine()
        self._typed = bytearray()
        """What has not been looked at yet."""
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        """Whether the client closed its sending side."""
        self._stopped = False
        self._transport: asyncio.Transport
        self.closed: asyncio.Future[None]

    def statistics(self) -> QmpClientStatistics:
        """Return what the client holds."""
        from blkxact.runtime.counts import QmpClientStatistics  # noqa: PLC0415 - nobody asks at the start

        return QmpClientStatistics(
            self.address,
            unread=self._transport.get_write_buffer_size(),
            commands=int(self._task is not None),
        )

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Show the banner."""
        self._transport = as_stream(transport)
        self.closed = asyncio.get_running_loop().create_future()
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if not self._server.admit(self, self.address):
            self.abort()
            return
        banner = f"QEMU {self._server.release} monitor - type 'help' for more information\r\n"
        self._transport.write(banner.encode() + self._terminal.take_output())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go; a command that runs goes on."""
        self._stopped = True
        self._server.forget(self)
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the client's next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Look at what was typed."""
        self._typed += self._buffer[:nbytes]
        self._work()

    def eof_received(self) -> bool:
        """Run what was typed, then close."""
        self._ended = True
        self._work()
        return not self._transport.is_closing()

    # Lines

    def _unchoked(self) -> None:
        self._work()

    def _work(self) -> None:
        """Take what was typed up to the next line that has to be run."""
        position = 0
        while position < len(self._typed) and self._task is None and not self._is_held():
            line = self._terminal.feed(self._typed[position])
            position += 1
            if line is not None:
                self._task = asyncio.get_running_loop().create_task(self._run(line))
        del self._typed[:position]
        if not self._transport.is_closing():
            self._transport.write(self._terminal.take_output())
            self._server.hold(self, self._transport.get_write_buffer_size())
        self._control_input()

    def _is_held(self) -> bool:
        return self._lags() or self._stopped

    def _lags(self) -> bool:
        return self._choked and self._transport.get_write_buffer_size() > MAX_BEHIND

    async def _run(self, line: bytes) -> None:
        text = line.decode(errors="surrogateescape")
        reply = ""
        try:
            if text.strip():
                reply = await self._execute("human-monitor-command", {"command-line": text})
        except QmpError as error:
            reply = f"Error: {error}\r\n"
        except Exception as error:  # noqa: BLE001 - a bug in a command must not end the monitor
            _log.error("HMP command failed within", exc_info=error)
            reply = f"Error: Internal error: {error!r}\r\n"
        self._task = None
        if self._transport.is_closing():
            return
        self._transport.write(reply.encode(errors="surrogateescape"))
        if not self._stopped and not self._server.dispatcher.is_ending:
            self._terminal.prompt()
        self._work()

    async def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        dispatcher, observer = self._server.dispatcher, self._server.observer
        result = dispatcher.execute(command, arguments, oob=False, client=None)
        if observer is not None:
            result = observer.executing(self, command, arguments, result)
        return await result

    def _control_input(self) -> None:
        if self._transport.is_closing() or self._stopped:
            return
        if self._ended:
            if self._task is None and not self._typed:
                self._transport.close()
            return
        wanted = len(self._typed) < MAX_TYPED and not self._lags()
        self._set_reading(self._transport, wanted=wanted)

    # What the owner asks of any connection

    def emit(self, event: Event, line: bytes) -> None:
        """Ignore an event: it is not shown to people."""

    def flush(self) -> None:
        """Nothing waits to be written."""

    def stop(self) -> set[asyncio.Task[None]]:
        """Take no more lines; return the task of the one that runs."""
        self._stopped = True
        return set() if self._task is None else {self._task}

    def close(self) -> None:
        """Send what there is to send, then close."""
        self._transport.close()

    def abort(self) -> None:
        """Close and forget what was not sent."""
        self._stopped = True
        self._transport.abort()
