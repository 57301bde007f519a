"""One NBD client's connection: its bytes, its handshake, its requests.

Invariants:

* A request is begun at once, in the callback that brought it. One that need not wait costs no task,
  and what it was sent with is not copied.
* A request that has begun runs to its end, even if the client is gone; only then the export is
  released.
* A client that does not read its replies gets nothing more to do and what it sends is left in the
  socket. What it can make the server hold is limited by the names below, and the sum of all clients
  by the owner's ``Memory``: whoever holds something waits when the sum is too large.
* A client that does not end its handshake in time is disconnected. In the transmission phase it may
  be silent for as long as it likes.

QEMU's counterpart: ``nbd/server.c`` (nbd_trip, nbd_client_receive_next_request).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from blkxact.nbd.output_queue import OutputQueue
from blkxact.nbd.protocol import Command, ProtocolError
from blkxact.nbd.request_stream import Request, RequestStream
from blkxact.nbd.server_handshake import ServerHandshake, Step
from blkxact.runtime.clock import Clock, Timer
from blkxact.runtime.counts import NbdClientStatistics
from blkxact.storage.transport import PacedProtocol, Writer, as_stream

from .exports import BlockExport, Exports
from .nbd_memory import Memory, Share, memory_of
from .nbd_transfer import Reply, Transfer
from .resumed import Resumed

MAX_REQUESTS_IN_FLIGHT: Final = 64
"""Requests of one client that wait for the disk; further ones are left in the socket."""
MAX_UNREAD_OUTPUT: Final = 4 << 20
"""Bytes that the client has not read when no more requests are begun."""
REQUESTS_PER_TURN: Final = 64
"""Requests of one client that are begun before others get their turn."""
CLOSE_GRACE_S: Final = 2.0
"""Seconds that a client which says good-bye has to read the last replies."""
HANDSHAKE_READ_SIZE: Final = 16 << 10
WRITE_HIGH_WATER: Final = 1
"""Bytes that asyncio may hold besides: as good as none, as the connection cuts its output itself.
(With 0 asyncio's TLS would never let a paused protocol go on.)"""

_DISC: Final = int(Command.DISC)

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who took the connection (``NbdServer``)."""

    memory: Memory
    exports: Exports
    clock: Clock
    tls: ssl.SSLContext | None
    handshake_s: int
    """Seconds from the connection to the first request's turn; 0: without a limit."""

    def next_client(self) -> int:
        """Return the number of a new client."""

    def forget(self, connection: NbdConnection) -> None:
        """Note that the connection is closed and its last request over."""


class NbdConnection(PacedProtocol):
    """A client, from its connection to its last request."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner
        self._number = owner.next_client()
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport | None = None
        self._writer: Writer
        self._handshake: ServerHandshake | None = ServerHandshake(
            owner.exports, tls=owner.tls is not None, extended=owner.exports.extended_headers
        )
        self._view = memoryview(bytearray(HANDSHAKE_READ_SIZE))
        """Where the handshake is received."""
        self._encrypting = False
        """TLS is being negotiated; the first options may come before it is known to have begun."""
        self._stream: RequestStream
        self._transfer: Transfer
        self._export: BlockExport | None = None
        self._timer: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """Requests that wait for something."""
        self._share = Share(owner.memory)
        self._output = OutputQueue()
        self._working = False
        self._leaving = False
        """No more is taken from the client; what it is owed is sent, then the end."""
        self._lost = False

    def statistics(self) -> NbdClientStatistics:
        """Return what the client holds."""
        return NbdClientStatistics(
            requests=len(self._tasks),
            unread=self._output.size,
            choked=self._choked,
            leaving=self._leaving,
        )

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        transport = as_stream(transport)
        self._loop = asyncio.get_running_loop()
        self._take_transport(transport)
        if self._leaving:  # the server has stopped meanwhile
            transport.abort()
            return
        limit = self._owner.handshake_s
        if limit:
            self._timer = self._owner.clock.call_later(limit, self.disconnect)
        self._shake_hands("nbd.connected")

    def _take_transport(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._transport = transport
        self._writer = Writer(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go."""
        self._lose()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the client's next bytes go."""
        return self._view if self._handshake is not None else self._stream.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Look at what came."""
        if self._leaving:
            return
        if self._handshake is not None:
            self._handshake.receive(self._view[:nbytes])
            if not self._encrypting:
                self._shake_hands()
        else:
            self._stream.received(nbytes)
            self._work()

    def eof_received(self) -> bool:
        """Answer what was asked, then close."""
        self._leave()
        return True  # the transport is closed by ``_leave``, when all is sent

    def _unchoked(self) -> None:
        """Send what waited, and go on with what was asked."""
        if self._lost:
            return
        self._flush()
        if self._encrypting:
            return
        if self._handshake is not None:
            self._shake_hands()
        else:
            self._work()

    # The handshake

    def _shake_hands(self, point: str = "nbd.handshake") -> None:
        """Answer options until there is none, or the client does not read."""
        if self._owner.exports.points.cuts(point, client=self._number):
            self.disconnect()
            return
        handshake = self._handshake
        assert handshake is not None
        try:
            step = Step.ANSWERED
            while step is Step.ANSWERED and not self._choked and not self._leaving:
                if handshake.output:
                    self._output.add([bytes(handshake.output)])
                    handshake.output.clear()
                    self._flush()
                step = handshake.step()
        except ProtocolError as error:
            _log.debug("NBD client: option negotiation failed: %s", error)
            step = Step.GOODBYE
        if handshake.output:
            self._output.add([bytes(handshake.output)])
            handshake.output.clear()
            self._flush()
        if step is Step.TRANSMIT:
            self._begin_transmission(handshake)
        elif step is Step.START_TLS:
            self._start_tls()
        elif step is Step.GOODBYE:
            self._leave()
        else:
            self._control_input(wanted=not self._choked)

    def _begin_transmission(self, handshake: ServerHandshake) -> None:
        export = handshake.offer
        assert isinstance(export, BlockExport)
        if export.shutting_down:
            self._leave()
            return
        self._cancel_timer()
        export.use(self)
        self._export = export
        self._transfer = Transfer(
            export,
            mode=handshake.mode,
            contexts=handshake.contexts,
            client=self._number,
            extended_offered=self._owner.exports.extended_headers,
        )
        self._stream = RequestStream(handshake.mode)
        self._stream.feed(handshake.rest())
        self._handshake = None
        self._work()

    def _start_tls(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._encrypting = True
        task = self._loop.create_task(self._encrypt(self._transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _encrypt(self, raw: asyncio.Transport) -> None:
        assert self._owner.tls is not None
        try:
            transport = await self._loop.start_tls(raw, self, self._owner.tls, server_side=True)
        except (OSError, ssl.SSLError) as error:
            _log.debug("NBD client: TLS handshake failed: %s", error)
            transport = None
        self._tasks.discard(asyncio.current_task())
        if transport is None or self._leaving or self._lost:
            raw.abort()
            self._lose()
            return
        self._encrypting = False
        self._take_transport(transport)
        assert self._handshake is not None
        self._handshake.tls_started()
        self._reading = True
        self._shake_hands()

    # Requests

    def _may_begin(self) -> bool:
        return (
            len(self._tasks) < MAX_REQUESTS_IN_FLIGHT
            and self._output.size < MAX_UNREAD_OUTPUT
            and not self._share.is_full
            and not self._leaving
        )

    def _work(self) -> None:
        """Begin requests until there is none, or the turn is over, or a limit is reached."""
        self._working = True
        turn = REQUESTS_PER_TURN
        try:
            while self._may_begin():
                request = self._stream.next_request()
                if request is None:
                    break
                self._begin(request)
                self._share.count(self._output.size)
                turn -= 1
                if not turn:
                    self._loop.call_soon(self._work)
                    break
        except ProtocolError as error:
            _log.debug("NBD client: %s", error)
            self._leave()
        self._working = False
        self._flush()
        if not self._leaving:
            self._control_input(wanted=self._may_begin())

    def _begin(self, request: Request) -> None:
        if request.command == _DISC:
            self._leave()
            return
        performing = self._transfer.begin(request)
        try:
            waits_for = performing.send(None)
        except StopIteration as stop:
            self._end(request, stop.value)
        except Exception as error:  # noqa: BLE001 - a bug must not end the connection
            self._fail(request, error)
        else:
            self._share.in_flight += memory_of(request)
            if request.payload is not None:
                self._stream.hold(request.payload)
            task = self._loop.create_task(self._finish(request, performing, waits_for))
            self._tasks.add(task)

    async def _finish(
        self, request: Request, performing: Coroutine[Any, Any, Reply], waits_for: Any
    ) -> None:
        """Wait for a request and answer it."""
        try:
            reply = await Resumed(performing, waits_for)
        except Exception as error:  # noqa: BLE001 - a bug must not end the connection
            self._fail(request, error)
        else:
            self._end(request, reply)
        self._share.in_flight -= memory_of(request)
        self._tasks.discard(asyncio.current_task())
        if self._lost:
            self._lose()
        elif self._leaving:
            self._flush()
            self._close_when_done()
        elif not self._working:
            self._work()

    def _fail(self, request: Request, error: Exception) -> None:
        """Answer a request that met a bug; the others need not suffer."""
        if isinstance(error, ConnectionError):  # a listener's
            self.disconnect()
            return
        _log.exception("NBD request %s failed within", request.command)
        self._end(request, self._transfer.refusal(request, errno.EIO, "internal error"))

    def _end(self, request: Request, reply: Reply) -> None:
        payload = request.payload
        if payload is not None:
            self._stream.give_back(payload)
        elif request.cut:
            self._leave()
        self._output.add(reply)

    def _control_input(self, *, wanted: bool) -> None:
        if self._transport is not None and not self._lost:
            self._set_reading(self._transport, wanted=wanted)

    # Output

    def _flush(self) -> None:
        """Hand the output to the socket, as far as it takes it."""
        output = self._output
        transport = self._transport
        while output and not self._choked and transport is not None:
            if transport.is_closing():
                output.clear()
                break
            self._writer.write(output.next_pieces())
        self._share.count(self._output.size)
        if self._leaving:
            self._close_when_done()

    # Leaving

    def disconnect(self) -> None:
        """Close at once; what was not sent is forgotten."""
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        """Take nothing more; close when all requests are answered and sent."""
        if self._leaving or self._lost:
            return
        self._leaving = True
        self._control_input(wanted=False)
        self._cancel_timer()
        self._timer = self._owner.clock.call_later(CLOSE_GRACE_S, self.disconnect)
        self._close_when_done()

    def _close_when_done(self) -> None:
        if not self._tasks and not self._output and not self._working:
            assert self._transport is not None
            self._transport.close()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _lose(self) -> None:
        """Note that the connection is closed; let go when the last request is over."""
        self._lost = self._leaving = True
        self._cancel_timer()
        self._output.clear()
        self._share.count(self._output.size)
        if self._tasks:
            return
        self._owner.exports.points.hit("nbd.disconnected", client=self._number)
        export, self._export = self._export, None
        if export is not None:
            export.release(self)
        self._owner.forget(self)
