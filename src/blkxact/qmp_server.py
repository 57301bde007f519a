"""QMP monitors on sockets: any number of addresses, any number of clients at each.

A client is a ``QmpConnection``. Clients beyond ``MAX_CLIENTS`` wait in the queues of their sockets.
When the clients together take more than ``MAX_HELD`` bytes of memory, the one that takes the most
is disconnected. Commands that run are waited for when the server closes.

QEMU's counterpart: ``monitor/qmp.c``, ``chardev/char-socket.c``; addresses: ``storage/sockets.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from blkxact.monitor.qmp_connection import QmpConnection
from blkxact.qmp.json_text import encode
from blkxact.qmp.session import Dispatcher
from blkxact.runtime.clock import Clock, within
from blkxact.runtime.events import Event, EventSink
from blkxact.runtime.points import Points
from blkxact.runtime.record import Record
from blkxact.runtime.release import DEFAULT_RELEASE, Release
from blkxact.runtime.steps import Turns
from blkxact.storage.acceptor import Acceptor
from blkxact.storage.fd_socket import keep_descriptors
from blkxact.storage.held_memory import HeldMemory
from blkxact.storage.sockets import Inode, inode_of, unlink_if_same
from blkxact.storage.stdio import open_stdio

MAX_CLIENTS = 256
"""Connections at a time; further ones wait."""
MAX_HELD = 128 << 20
"""Bytes of memory, roughly, that the input and output of all clients may take."""
MAX_PRINTED = 16 << 20
"""Bytes for standard output that are kept for a reader that is slow; what does not fit is lost."""
CLOSE_GRACE_S = 2.0
"""Seconds that ``close`` gives running commands, and then clients that have not read all."""

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from blkxact.monitor.hmp_connection import HmpConnection
    from blkxact.monitor.observer import Observer
    from blkxact.monitor.reconnecting import Reconnecting
    from blkxact.runtime.counts import QmpStatistics
    from blkxact.storage.paced_output import PacedOutput
    from blkxact.storage.stdio import StdioTransport

    Connection: TypeAlias = QmpConnection | HmpConnection


class _Listener(Record):
    """A socket that takes clients."""

    address: str
    acceptor: Acceptor
    path: str | None = None
    inode: Inode | None = None
    """Of ``path``, to know it as ours."""

    def close(self) -> None:
        self.acceptor.close()
        if self.path is not None and self.inode is not None:
            unlink_if_same(self.path, self.inode)


class QmpServer:
    """The monitors of one emulator.

    ``dispatcher`` runs the commands, ``events`` go to the clients, ``package`` is the name
    and version in the greeting.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        events: EventSink,
        clock: Clock,
        *,
        package: str,
        points: Points | None = None,
        release: Release = DEFAULT_RELEASE,
    ) -> None:
        self.dispatcher = dispatcher
        self._clock = clock
        self.package = package
        self.points = points or Points()
        self.release = release
        self.turns = Turns()
        self._listeners: list[_Listener] = []
        self._connections: dict[Connection, int] = {}
        """The clients, and how much memory each takes."""
        self._memory = HeldMemory()
        """The sum."""
        self._connecting: dict[Connection, asyncio.Task[None]] = {}
        """Taken, but not greeted yet."""
        self._reconnecting: list[Reconnecting] = []
        """Those that connect to their clients."""
        self._closing = False
        self._stdio: StdioTransport | None = None
        self._output: PacedOutput | None = None
        self.on_last_left: Callable[[], None] = lambda: None
        """Called when no client is left."""
        self.observer: Observer | None = None
        """Is given what clients send and get."""
        self._unsubscribe = events.subscribe(self._on_event)

    @property
    def addresses(self) -> list[str]:
        """Where clients are taken: ``unix:PATH`` and ``tcp:HOST:PORT``."""
        return [listener.address for listener in self._listeners]

    def statistics(self) -> QmpStatistics:
        """Return how many clients there are, and what they hold."""
        from blkxact.runtime.counts import QmpStatistics  # noqa: PLC0415 - nobody asks at the start

        clients = tuple(connection.statistics() for connection in self._connections)
        return QmpStatistics(len(self._listeners), self._memory.held, clients)

    def listen(
        self,
        address: str,
        bound: socket.socket,
        *,
        pretty: bool = False,
        human: bool = False,
        path: str | None = None,
    ) -> None:
        """Take the clients of a bound socket, which it owns from now on.

        ``human`` gives them the human monitor. The file ``path`` is removed at the end.
        """
        loop = asyncio.get_running_loop()

        def take(client: socket.socket) -> None:
            client = keep_descriptors(client)
            connection = self._new(address, client, pretty=pretty, human=human)
            self._connecting[connection] = loop.create_task(self._connect(connection, client))

        inode = None if path is None else inode_of(path)
        acceptor = Acceptor(bound, "QMP", self._clock, has_room=self._has_room, on_client=take)
        self._listeners.append(_Listener(address, acceptor, path, inode))

    def _new(
        self, address: str, client: socket.socket | None, *, pretty: bool, human: bool
    ) -> Connection:
        if human:
            from blkxact.monitor.hmp_connection import HmpConnection  # noqa: PLC0415 - few have one

            return HmpConnection(self, address)
        return QmpConnection(self, address, pretty=pretty, socket=client)

    def _has_room(self) -> bool:
        return len(self._connections) + len(self._connecting) < MAX_CLIENTS

    async def _connect(self, connection: Connection, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        except OSError:
            client.close()
        finally:
            self._connecting.pop(connection, None)

    def open_stdio(self, *, pretty: bool = False, human: bool = False) -> None:
        """Serve a client on standard input and output."""
        self._stdio = open_stdio(self._new("standard input", None, pretty=pretty, human=human))

    async def accept_socket(
        self,
        connected: socket.socket,
        *,
        address: str = "a socket passed in",
        pretty: bool = False,
        human: bool = False,
    ) -> asyncio.Future[None]:
        """Serve the client at the other end of a connected socket.

        Returns what is done when it has gone.
        """
        client = keep_descriptors(connected)
        connection = self._new(address, client, pretty=pretty, human=human)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        return connection.closed

    def keep_connected(
        self,
        reconnecting: Reconnecting,
        address: str,
        *,
        pretty: bool = False,
        human: bool = False,
    ) -> None:
        """Serve whom a chardev connects to, and connects to again, from now on."""
        self._reconnecting.append(reconnecting)
        reconnecting.start(
            lambda client: self.accept_socket(client, address=address, pretty=pretty, human=human)
        )

    def print(self, data: bytes) -> None:
        """Write to standard output, where a client may be, after the events so far."""
        for connection in list(self._connections):
            connection.flush()
        if self._stdio is not None:
            self._stdio.write(data)
        else:
            self._plain_output().write(data)

    def _plain_output(self) -> PacedOutput:
        """Return standard output, where no client is."""
        if self._output is None:
            from blkxact.storage.paced_output import STDOUT, PacedOutput  # noqa: PLC0415 - few print

            self._output = PacedOutput(STDOUT, limit=MAX_PRINTED)
            self._output.attach(asyncio.get_running_loop())
        return self._output

    async def close(self) -> None:
        """Take no more clients and requests, let commands end, send all replies and events.

        What is not done ``CLOSE_GRACE_S`` later is cancelled; what is not read then is dropped.
        """
        self._closing = True
        while self._reconnecting:
            await self._reconnecting.pop().close()
        while self._listeners:
            self._listeners.pop().close()
        connections = list(self._connections)
        tasks = {task for connection in connections for task in connection.stop()}
        tasks.discard(asyncio.current_task())
        await self._wait_a_while(tasks)
        for task in tasks:
            task.cancel()
        self._unsubscribe()
        for connection in connections:
            connection.close()
        closed = {connection.closed for connection in connections}
        await self._wait_a_while(closed)
        for connection in list(self._connections):
            connection.abort()
        if closed:
            await asyncio.wait(closed)
        if self._output is not None:
            self._output.detach(CLOSE_GRACE_S)

    def sever(self) -> None:
        """Disconnect all clients and take no more, without a word; a socket's file stays."""
        self._closing = True
        self._unsubscribe()
        while self._listeners:
            self._listeners.pop().acceptor.close()
        for connection in list(self._connections):
            connection.abort()

    async def _wait_a_while(self, futures: Collection[asyncio.Future[None]]) -> None:
        """Return when all are done, or ``CLOSE_GRACE_S`` later."""
        if futures:
            with suppress(TimeoutError):
                await within(self._clock, CLOSE_GRACE_S, asyncio.wait(futures))

    # For the connections.

    def admit(self, connection: Connection, address: str) -> bool:
        """Take a connection on, unless there are too many or all is over."""
        if len(self._connections) >= MAX_CLIENTS:
            _log.warning("QMP client of %s refused: %d are connected", address, MAX_CLIENTS)
        elif not self._closing:
            self._connections[connection] = 0
            if self.observer is not None:
                self.observer.connected(connection, address)
            return True
        return False

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closed."""
        self._memory.add(-self._connections.pop(connection, 0))
        self._memory.give_back()
        if self.observer is not None:
            self.observer.gone(connection)
        if not self._connections:
            self.on_last_left()
        for listener in self._listeners:
            listener.acceptor.update()

    def hold(self, connection: Connection, size: int) -> None:
        """Note how much memory a client takes, and disconnect the largest if it is too much."""
        sizes = self._connections
        self._memory.add(size - sizes[connection])
        sizes[connection] = size
        while self._memory.held > MAX_HELD:
            largest = max(sizes, key=sizes.__getitem__)
            _log.warning(
                "QMP client of %s disconnected: it takes %d KiB of %d KiB for all clients",
                largest.address, sizes[largest] >> 10, MAX_HELD >> 10,
            )  # fmt: skip
            self._memory.add(-sizes[largest])
            sizes[largest] = 0
            largest.abort()
        self._memory.give_back()

    def _on_event(self, event: Event) -> None:
        if self.observer is not None:
            self.observer.event(event, (one for one in self._connections if one.wants_events))
        if self._connections:
            line = encode(event)
            for connection in list(self._connections):
                connection.emit(event, line)
