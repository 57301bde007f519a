"""One QMP client: a ``qmp.session.Session`` with a transport beneath it.

* All that one read brought is answered with one write. An event raised by a command goes out before
  that command's reply.
* A client may be behind with reading: one that sends two requests and reads one line in turns is
  served like any other. With ``MAX_BEHIND`` bytes unread its requests wait, and what it sends is
  left in the socket. Events cannot wait, so a client with ``MAX_UNREAD_OUTPUT`` bytes unread is
  disconnected, with a line in the log. (QEMU keeps everything in memory.)
* The owner is informed how much memory the client takes (``hold``), and may disconnect it for that.
* Long work on one client's input is done in pieces, between which others have their turn.
* A command goes on when its client leaves.
* A client that closed its sending side still gets the answers to what it sent.

QEMU's counterpart: ``monitor/qmp.c``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from blkxact.errors import QmpError
from blkxact.qmp.json_text import encode, encode_pretty
from blkxact.qmp.request import Request
from blkxact.qmp.session import Dispatcher, Session
from blkxact.runtime.events import Event
from blkxact.runtime.points import Points
from blkxact.runtime.release import Release
from blkxact.runtime.steps import Turns
from blkxact.storage.fd_socket import FdSocket
from blkxact.storage.transport import PacedProtocol, as_stream

if TYPE_CHECKING:
    from blkxact.runtime.counts import QmpClientStatistics

    from .observer import Observer

READ_SIZE = 64 << 10
"""Bytes taken from a socket at a time."""
WRITE_HIGH_WATER = 256 << 10
"""Bytes that are collected before they are written, and of which the owner is informed."""
MAX_BEHIND = 8 << 20
"""Bytes that the client has not read when its requests begin to wait."""
MAX_UNREAD_OUTPUT = 16 << 20
"""Bytes that the client has not read when an event costs it its connection."""
MESSAGES_PER_TURN = 64
"""Messages of one client that are handled before others get their turn."""
LITTLE = 64 << 10
"""Bytes that a client may hold without being asked about it."""

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who took the connection (``QmpServer``)."""

    dispatcher: Dispatcher
    package: str
    release: Release
    turns: Turns
    points: Points
    observer: Observer | None

    def admit(self, connection: QmpConnection, address: str) -> bool:
        """Take the connection on, or say that it is to be closed."""

    def forget(self, connection: QmpConnection) -> None:
        """Drop a connection that is closed."""

    def hold(self, connection: QmpConnection, size: int) -> None:
        """Take the bytes of memory that a client holds now."""


class QmpConnection(PacedProtocol):
    """One client."""

    def __init__(
        self, server: Owner, address: str, *, pretty: bool, socket: socket.socket | None = None
    ) -> None:
        super().__init__()
        self._server = server
        self._socket = socket
        self._transport: asyncio.Transport
        self.address = address
        self._encode = encode_pretty if pretty else encode
        self._session = Session(
            server.dispatcher.lookup, server.package, self._encode, release=server.release
        )
        self._loop: asyncio.AbstractEventLoop
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._tasks: set[asyncio.Task[None]] = set()
        """Commands that wait for something."""
        self._working = False
        self._flush_due = False
        self._holding = 0
        """Events that listeners hold back, and all output with them."""
        self._deferred = False
        """Whether ``_go_on`` will be called."""
        self._held = 0
        """What was last reported to the owner."""
        self._no_more_input = False
        """Whether the client closed its sending side."""
        self._stopped = False
        """Whether no more requests are to begin."""
        self.closed: asyncio.Future[None]

    def statistics(self) -> QmpClientStatistics:
        """Return what the client holds."""
        from blkxact.runtime.counts import QmpClientStatistics  # noqa: PLC0415 - nobody asks at the start

        return QmpClientStatistics(
            self.address,
            held=self._held,
            unread=self._transport.get_write_buffer_size() + self._session.output_size,
            commands=len(self._tasks),
            parsing=self._session.midway,
        )

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        transport = as_stream(transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        points = self._server.points
        if not self._server.admit(self, self.address) or points.cuts(
            "monitor.connected", monitor=self.address
        ):
            self._stopped = True
            transport.abort()
        else:
            if self._server.observer is not None:
                self._session.on_answered = partial(self._server.observer.answered, self)
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go; commands that run go on."""
        self._stopped = True
        self._server.points.hit("monitor.disconnected", monitor=self.address)
        self._session.discard()
        self._server.forget(self)
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the client's next bytes go."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Look at what came."""
        if not self._stopped:
            self._session.receive(bytes(self._view[:nbytes]))
            self._work()

    def eof_received(self) -> bool:
        """Answer what was asked, then close."""
        self._no_more_input = True
        self._work()
        return not self._transport.is_closing()

    # Requests

    def _lags(self) -> bool:
        return self._choked and self._transport.get_write_buffer_size() > MAX_BEHIND

    def _unchoked(self) -> None:
        self._work()

    def _work(self) -> None:
        """Handle messages until there is none, or the turn is over, or the client is choked."""
        session = self._session
        self._working = True
        turn = MESSAGES_PER_TURN
        while session.has_work and not self._lags() and not self._stopped:
            request = session.next_request()
            if request is not None:
                self._run(request)
            if session.output_size >= WRITE_HIGH_WATER:
                self.flush()
            turn -= 1
            if session.midway or not turn:
                self._defer()
                break
        self._working = False
        self.flush()
        self._control_input()

    def _defer(self) -> None:
        if not self._deferred:
            self._deferred = True
            self._server.turns.defer(self._go_on)

    def _go_on(self) -> None:
        self._deferred = False
        self._work()

    def _run(self, request: Request) -> None:
        try:
            result: Any
            if self._server.points.listening:
                result = self._execute_observed(request)
            else:
                result = self._execute(request)
        except Exception as error:  # noqa: BLE001 - a bug in a command must not end the session
            self._session.fail(request, _as_refusal(request, error))
            return
        if type(result) is not dict and isinstance(result, Awaitable):
            task = self._loop.create_task(self._finish(request, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._session.complete(request, result)

    def _execute(self, request: Request) -> Any | Awaitable[Any]:
        return self._server.dispatcher.execute(
            request.name, request.arguments, oob=request.oob, client=self
        )

    def _execute_observed(self, request: Request) -> Awaitable[Any]:
        """Execute a command between its points, and report it if that is wanted."""
        result = self._execute_between_points(request)
        observer = self._server.observer
        if observer is None:
            return result
        return observer.executing(self, request.name, request.arguments, result)

    async def _execute_between_points(self, request: Request) -> Any:
        await self._reach("monitor.received", request)
        try:
            result = self._execute(request)
            return await result if isinstance(result, Awaitable) else result
        finally:
            await self._reach("monitor.reply", request)

    async def _reach(self, point: str, request: Request) -> None:
        try:
            points = self._server.points
            await points.reach(point, monitor=self.address, command=request.name)
        except ConnectionError as error:
            self.abort()
            raise QmpError("The connection is cut") from error

    async def _finish(self, request: Request, result: Awaitable[Any]) -> None:
        """Wait for a command and answer."""
        try:
            value = await result
        except Exception as error:  # noqa: BLE001 - a bug in a command must not end the session
            self._session.fail(request, _as_refusal(request, error))
        else:
            self._session.complete(request, value)
        self._tasks.discard(asyncio.current_task())
        self._work()
        self._server.points.hit("monitor.answered", monitor=self.address, command=request.name)

    @property
    def wants_events(self) -> bool:
        """Whether the client has negotiated."""
        return self._session.wants_events and not self._transport.is_closing()

    def take_descriptor(self) -> int | None:
        """Return a file descriptor that the client has passed; it is the caller's now."""
        return self._socket.take_descriptor() if isinstance(self._socket, FdSocket) else None

    def _control_input(self) -> None:
        """Read if it makes sense, and close when the client waits for nothing more."""
        if self._no_more_input or self._stopped:
            if self._no_more_input and self._session.idle and not self._tasks:
                self._transport.close()
            return
        wanted = self._session.wants_input and not self._lags()
        self._set_reading(self._transport, wanted=wanted)

    # Output

    def flush(self) -> None:
        """Write what there is for the client."""
        self._flush_due = False
        if self._holding:
            return
        if self._session.output_size:
            data = self._session.take_output()
            if not self._transport.is_closing():
                self._transport.write(data)
        self._report_memory()

    def emit(self, event: Event, line: bytes) -> None:
        """Send an event, of which ``line`` is the usual encoding, if the client has negotiated."""
        if not self.wants_events:
            return
        if self._encode is not encode:
            line = self._encode(event)
        unread = self._transport.get_write_buffer_size() + self._session.output_size
        if unread + len(line) > MAX_UNREAD_OUTPUT:
            _log.warning("QMP client of %s does not read its events: disconnected", self.address)
            self.abort()
            return
        if self._server.points.listening and not self._may_emit(event):
            return
        self._session.emit(line)
        if not self._working and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def _may_emit(self, event: Event) -> bool:
        """Pass the event's point; return whether the connection goes on."""
        try:
            waiting = self._server.points.begin(
                "monitor.event", monitor=self.address, event=event["event"]
            )
        except ConnectionError:
            self.flush()
            self.abort()
            return False
        if waiting is not None:
            self.flush()
            self._holding += 1
            task = self._loop.create_task(self._hold(waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _hold(self, waiting: Awaitable[None]) -> None:
        """Send nothing until a listener lets the event go."""
        try:
            await waiting
        except ConnectionError:
            self.abort()
        finally:
            self._holding -= 1
            self.flush()

    def _report_memory(self) -> None:
        if self._stopped:
            return
        held = self._session.held + self._transport.get_write_buffer_size()
        if held > LITTLE or self._held:
            self._held = held if held > LITTLE else 0
            self._server.hold(self, self._held)

    # Leaving

    def stop(self) -> set[asyncio.Task[None]]:
        """Take no more requests; return the tasks of those that run.

        What still comes is read and dropped: a socket closed with unread input is reset, and what
        was sent last may be lost with it.
        """
        self._stopped = True
        if not self._no_more_input:
            self._set_reading(self._transport, wanted=True)
        return self._tasks

    def close(self) -> None:
        """Send what there is to send, then close."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close and forget what was not sent."""
        self._stopped = True
        self._transport.abort()


def _as_refusal(request: Request, error: Exception) -> QmpError:
    """Return what the client gets for a failed command."""
    if isinstance(error, QmpError):
        return error
    _log.error("QMP command %s failed within", request.name, exc_info=error)
    return QmpError(f"Internal error in {request.name}: {error!r}")
