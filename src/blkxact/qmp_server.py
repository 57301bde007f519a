"""QMP monitors on sockets: any number of addresses, any number of clients at each.

One connection is one ``qmp.session.Session`` with a transport beneath it. All that one read brought
is answered with one write. An event raised by a command goes out before that command's reply.

Laws:

* A client that does not read gets nothing more to do: its requests wait, and what it sends is left
  in the socket. Events cannot wait, so a client with ``MAX_UNREAD_OUTPUT`` bytes outstanding is
  disconnected, with a line in the log. (QEMU keeps them all in memory.)
* A command goes on when its client leaves, and is waited for when the server closes.
* A client that closed its sending side still gets the answers to what it sent.

QEMU's counterpart: ``monitor/qmp.c``, ``chardev/char-socket.c``; addresses: ``storage/sockets.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from .errors import QmpError, strerror
from .events import Event, EventSink
from .qmp.json_text import encode, encode_pretty
from .qmp.session import Dispatcher, Request, Session
from .storage.sockets import Inode, bind_tcp, bind_unix, check_unix_path, inode_of, unlink_if_same
from .storage.stdio import open_stdio

READ_SIZE = 64 << 10
"""Bytes taken from a socket at a time."""
WRITE_HIGH_WATER = 256 << 10
"""Bytes that the client has not read when its requests begin to wait."""
MAX_UNREAD_OUTPUT = 16 << 20
"""Bytes that the client has not read when an event costs it its connection."""
MESSAGES_PER_TURN = 64
"""Messages of one client that are handled before others get their turn."""
MAX_CLIENTS = 256
"""Connections at a time; further ones are closed at once."""
CLOSE_GRACE_S = 2.0
"""Seconds that ``close`` gives running commands, and then clients that have not read all."""

_log = logging.getLogger(__name__)


class _Connection(asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, server: QmpServer, address: str, *, pretty: bool) -> None:
        self._server = server
        self._address = address
        self._encode = encode_pretty if pretty else encode
        self._session = Session(server.dispatcher.lookup, server.package, self._encode)
        self._transport: asyncio.Transport
        self._loop: asyncio.AbstractEventLoop
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._tasks: set[asyncio.Task[None]] = set()
        """Commands that wait for something."""
        self._reading = True
        self._choked = False
        """Whether the client should read before it is given more."""
        self._working = False
        self._flush_due = False
        self._no_more_input = False
        """Whether the client closed its sending side."""
        self._stopped = False
        """Whether no more requests are to begin."""
        self.closed: asyncio.Future[None]

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if self._server.admit(self, self._address):
            self._flush()
        else:
            self._stopped = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._stopped = True
        self._server.forget(self)
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if not self._stopped:
            self._session.receive(bytes(self._view[:nbytes]))
            self._work()

    def eof_received(self) -> bool:
        self._no_more_input = True
        self._work()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._work()

    # Requests

    def _work(self) -> None:
        """Handle messages until there is none, or the turn is over, or the client is choked."""
        session = self._session
        self._working = True
        turn = MESSAGES_PER_TURN
        while session.has_work and not self._choked and not self._stopped:
            if not turn:
                self._loop.call_soon(self._work)
                break
            turn -= 1
            request = session.next_request()
            if request is not None:
                self._run(request)
            if session.output_size >= WRITE_HIGH_WATER:
                self._flush()
        self._working = False
        self._flush()
        self._control_input()

    def _run(self, request: Request) -> None:
        try:
            result = self._server.dispatcher.execute(
                request.name, request.arguments, oob=request.oob
            )
        except Exception as error:  # noqa: BLE001 - a bug in a command must not end the session
            self._session.fail(request, _as_refusal(request, error))
            return
        if type(result) is not dict and isawaitable(result):
            task = self._loop.create_task(self._finish(request, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._session.complete(request, result)

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

    def _control_input(self) -> None:
        """Read if it makes sense, and close when the client waits for nothing more."""
        if self._no_more_input or self._stopped:
            if self._no_more_input and self._session.idle and not self._tasks:
                self._transport.close()
            return
        wanted = self._session.wants_input and not self._choked
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Output

    def _flush(self) -> None:
        self._flush_due = False
        if self._session.output_size:
            data = self._session.take_output()
            if not self._transport.is_closing():
                self._transport.write(data)

    def emit(self, event: Event, line: bytes) -> None:
        """Send an event, of which ``line`` is the usual encoding, if the client has negotiated."""
        if not self._session.wants_events or self._transport.is_closing():
            return
        if self._encode is not encode:
            line = self._encode(event)
        unread = self._transport.get_write_buffer_size() + self._session.output_size
        if unread + len(line) > MAX_UNREAD_OUTPUT:
            _log.warning("QMP client of %s does not read its events: disconnected", self._address)
            self._stopped = True
            self._transport.abort()
            return
        self._session.emit(line)
        if not self._working and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # Leaving

    def stop(self) -> set[asyncio.Task[None]]:
        """Take no more requests; return the tasks of those that run.

        What still comes is read and dropped: a socket closed with unread input is reset, and what
        was sent last may be lost with it.
        """
        self._stopped = True
        if not self._reading and not self._no_more_input:
            self._reading = True
            self._transport.resume_reading()
        return self._tasks

    def close(self) -> None:
        """Send what there is to send, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close and forget what was not sent."""
        self._transport.abort()


def _as_refusal(request: Request, error: Exception) -> QmpError:
    """Return what to tell the client of a failed command."""
    if isinstance(error, QmpError):
        return error
    _log.error("QMP command %s failed within", request.name, exc_info=error)
    return QmpError(f"Internal error in {request.name}: {error!r}")


@dataclass(slots=True)
class _Listener:
    """A socket that takes clients."""

    address: str
    server: asyncio.AbstractServer
    path: str | None = None
    inode: Inode | None = None
    """Of ``path``, to know it as ours."""

    def close(self) -> None:
        self.server.close()
        if self.path is not None and self.inode is not None:
            unlink_if_same(self.path, self.inode)


async def _all_closed(connections: list[_Connection], timeout: float | None) -> None:  # noqa: ASYNC109 - as asyncio.wait
    if connections:
        await asyncio.wait([connection.closed for connection in connections], timeout=timeout)


class QmpServer:
    """The monitors of one emulator.

    ``dispatcher`` runs the commands, ``events`` is what clients hear of, ``package`` is the name
    and version that the greeting tells.
    """

    def __init__(self, dispatcher: Dispatcher, events: EventSink, *, package: str) -> None:
        self.dispatcher = dispatcher
        self.package = package
        self._listeners: list[_Listener] = []
        self._connections: dict[_Connection, None] = {}
        self._closing = False
        self._unsubscribe = events.subscribe(self._on_event)

    @property
    def addresses(self) -> list[str]:
        """Where clients are taken: ``unix:PATH`` and ``tcp:HOST:PORT``."""
        return [listener.address for listener in self._listeners]

    async def listen_unix(
        self, path: str, *, mode: int = 0o600, wait: bool = False, pretty: bool = False
    ) -> None:
        """Take clients at a Unix socket whose file has ``mode``.

        With ``wait``, return when the first client is connected. Raises ``QmpError``.
        """
        bound = bind_unix(path, mode)
        await self._listen(f"unix:{path}", bound, wait=wait, pretty=pretty, path=path)

    async def listen_tcp(
        self, host: str, port: int, *, wait: bool = False, pretty: bool = False
    ) -> None:
        """Take clients at a loopback address; port 0 is any free one, which ``addresses`` tells.

        Raises ``QmpError``.
        """
        bound = bind_tcp(host, port)
        address = f"tcp:{host}:{bound.getsockname()[1]}"
        await self._listen(address, bound, wait=wait, pretty=pretty)

    async def _listen(
        self,
        address: str,
        bound: socket.socket,
        *,
        wait: bool,
        pretty: bool,
        path: str | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        first_client = loop.create_future()

        def factory() -> _Connection:
            if not first_client.done():
                first_client.set_result(None)
            return _Connection(self, address, pretty=pretty)

        inode = None if path is None else inode_of(path)
        server = await loop.create_server(factory, sock=bound)
        self._listeners.append(_Listener(address, server, path, inode))
        if wait:
            await first_client

    async def connect_unix(self, path: str, *, pretty: bool = False) -> None:
        """Serve the client that listens at ``path`` (``server=off``). Raises ``QmpError``."""
        check_unix_path(path)
        loop = asyncio.get_running_loop()
        address = f"unix:{path}"
        try:
            await loop.create_unix_connection(
                lambda: _Connection(self, address, pretty=pretty), path
            )
        except OSError as error:
            raise QmpError(f"Failed to connect to '{path}': {strerror(error)}") from error

    async def connect_tcp(self, host: str, port: int, *, pretty: bool = False) -> None:
        """Serve the client that listens at a TCP address. Raises ``QmpError``."""
        loop = asyncio.get_running_loop()
        address = f"tcp:{host}:{port}"
        try:
            await loop.create_connection(
                lambda: _Connection(self, address, pretty=pretty), host, port
            )
        except OSError as error:
            raise QmpError(f"Failed to connect to '{host}:{port}': {strerror(error)}") from error

    def open_stdio(self, *, pretty: bool = False) -> None:
        """Serve a client on standard input and output."""
        open_stdio(_Connection(self, "standard input", pretty=pretty))

    async def accept_socket(self, connected: socket.socket, *, pretty: bool = False) -> None:
        """Serve the client at the other end of a connected socket."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(
            lambda: _Connection(self, "a socket passed in", pretty=pretty), connected
        )

    async def close(self) -> None:
        """Take no more clients and requests, let commands end, send all replies and events.

        What is not done ``CLOSE_GRACE_S`` later is cancelled; what is not read then is dropped.
        """
        self._closing = True
        while self._listeners:
            self._listeners.pop().close()
        connections = list(self._connections)
        tasks = {task for connection in connections for task in connection.stop()}
        tasks.discard(asyncio.current_task())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_GRACE_S)
            for task in late:
                task.cancel()
        self._unsubscribe()
        for connection in connections:
            connection.close()
        await _all_closed(connections, timeout=CLOSE_GRACE_S)
        for connection in list(self._connections):
            connection.abort()
        await _all_closed(connections, timeout=None)

    # For the connections.

    def admit(self, connection: _Connection, address: str) -> bool:
        """Take a connection on, unless there are too many or all is over."""
        if len(self._connections) >= MAX_CLIENTS:
            _log.warning("QMP client of %s refused: %d are connected", address, MAX_CLIENTS)
        elif not self._closing:
            self._connections[connection] = None
            return True
        return False

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that is closed."""
        self._connections.pop(connection, None)

    def _on_event(self, event: Event) -> None:
        if self._connections:
            line = encode(event)
            for connection in list(self._connections):
                connection.emit(event, line)
