"""One connection to an NBD server: its bytes, its handshake, the requests that are in flight on it.

Invariants:

* Requests are answered in any order. When the connection ends, for whatever reason, every request
  that has no answer fails: none is left waiting.
* A server that breaks the protocol is disconnected; the channel is ``broken`` then.
* What is sent is handed to the socket in pieces, as fast as it takes them, without a copy. The
  payload of a write is left alone by the caller until the answer; an answer that comes before the
  payload was sent breaks the protocol.

QEMU's counterpart: the receiving and sending half of ``block/nbd.c``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Final, NamedTuple

from blkxact.errors import QmpError
from blkxact.nbd.client_handshake import ClientHandshake, ClientStep, ExportInfo
from blkxact.nbd.option_reply import HandshakeError
from blkxact.nbd.output_queue import OutputQueue
from blkxact.nbd.protocol import Command, ProtocolError, pack_request
from blkxact.nbd.reply_stream import Answer, ReplyStream
from blkxact.runtime.clock import Clock
from blkxact.storage.api import Buffer
from blkxact.storage.transport import PacedProtocol, Writer, as_stream

HANDSHAKE_READ_SIZE: Final = 16 << 10
WRITE_HIGH_WATER: Final = 1
"""Bytes that asyncio may hold besides: as good as none, as the channel cuts its output itself."""
CLOSE_GRACE_S: Final = 2.0
"""Seconds that a server has to take the good-bye."""

_END: Final = "Unexpected end-of-file before all bytes were read"

_log = logging.getLogger(__name__)


class ServerError(QmpError):
    """A server that is there, but that cannot be used."""


class _Waiting(NamedTuple):
    answered: asyncio.Future[Answer | None]
    sent_at: int
    """Bytes of output that are sent when the request is."""


class NbdChannel(PacedProtocol):
    """A connection, from the server's greeting to its end.

    ``shake_hands`` comes first, then ``request`` as often as one likes.
    """

    def __init__(self, handshake: ClientHandshake) -> None:
        super().__init__()
        self.info: ExportInfo = handshake.info
        self.broken = False
        """The server has broken the protocol."""
        self._handshake: ClientHandshake | None = handshake
        self._transport: asyncio.Transport | None = None
        self._writer: Writer
        self._view = memoryview(bytearray(HANDSHAKE_READ_SIZE))
        """Where the handshake is received."""
        self._stream: ReplyStream
        self._stepped: asyncio.Future[None] | None = None
        self._cookies = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._output = OutputQueue()
        self._queued = 0
        """Bytes of output in all, sent or not."""
        self._flush_soon = False
        """A call of ``_flush`` is on its way."""
        self._lost = asyncio.get_running_loop().create_future()

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, or is about to."""
        return self.broken or self._lost.done()

    async def lost(self) -> None:
        """Wait until the connection has ended."""
        await asyncio.shield(self._lost)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting."""
        self._take_transport(as_stream(transport))

    def _take_transport(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._transport = transport
        self._writer = Writer(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Wake every waiter."""
        if not self._lost.done():
            self._lost.set_result(None)
        self._give_up()

    def eof_received(self) -> bool:
        """Close: a server that says no more has no more answers."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the server's next bytes go."""
        return self._view if self._handshake is not None else self._stream.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Look at what came."""
        if self._handshake is not None:
            self._handshake.receive(self._view[:nbytes])
            self._wake()
        elif not self.broken:
            self._stream.received(nbytes)
            self._take_answers()

    def _unchoked(self) -> None:
        """Go on sending."""
        if not self._lost.done():
            self._flush()

    # The handshake

    async def shake_hands(self) -> bool:
        """Go on with the handshake; return whether TLS is to be started (``encrypted``) first.

        Raises ``QmpError``; the caller closes the connection then.
        """
        handshake = self._handshake
        assert handshake is not None
        while True:
            self._stepped = asyncio.get_running_loop().create_future()
            try:
                step = handshake.step()
            except HandshakeError as error:
                raise _refusal(error) from error
            finally:
                self._send(bytes(handshake.output))
                handshake.output.clear()
            if step is not ClientStep.STARVED:
                break
            if self._lost.done():
                raise ServerError(f"Failed to read {handshake.reading}: {_END}")
            await self._stepped
        if step is ClientStep.TRANSMIT:
            info = handshake.info
            self._stream = ReplyStream(info.mode, info.context)
            self._handshake = None
            if handshake.rest():
                raise ServerError("Server sent a reply before there was a request")
        return step is ClientStep.START_TLS

    @property
    def transport(self) -> asyncio.Transport:
        """What it is connected by."""
        assert self._transport is not None
        return self._transport

    def encrypted(self, transport: asyncio.Transport) -> None:
        """Go on over TLS."""
        assert self._handshake is not None
        self._take_transport(transport)
        self._handshake.tls_started()

    def _wake(self) -> None:
        if self._stepped is not None and not self._stepped.done():
            self._stepped.set_result(None)

    # Requests

    async def request(
        self, command: Command, flags: int, offset: int, length: int, payload: Buffer | None = None
    ) -> Answer | None:
        """Make a request and return its answer, or None when the connection has ended first."""
        if self.is_lost:
            return None
        cookie = next(self._cookies)
        self._stream.expect(cookie, command, offset, length)
        header = pack_request(self.info.mode, command, cookie, offset, length, flags=flags)
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._queue(header, *([] if payload is None else [payload]))
        if not self._waiting:
            self._flush()
        elif not self._flush_soon:  # those that others are about to make are sent together
            self._flush_soon = True
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting[cookie] = _Waiting(answered, self._queued)
        return await answered

    def _take_answers(self) -> None:
        try:
            while (answer := self._stream.next_answer()) is not None:
                self._settle(answer)
        except ProtocolError as error:
            _log.warning("NBD server: %s", error)
            self.broken = True
            self.transport.abort()
            self._give_up()

    def _settle(self, answer: Answer) -> None:
        waiting = self._waiting[answer.cookie]
        if waiting.sent_at > self._queued - self._output.size:
            raise ProtocolError("Protocol error: reply to a request that is not sent yet")
        del self._waiting[answer.cookie]
        if not waiting.answered.done():
            waiting.answered.set_result(answer)

    def _give_up(self) -> None:
        """Fail every waiter: no more replies will come."""
        self._output.clear()
        self._wake()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.answered.done():
                one.answered.set_result(None)

    # Output

    def _send(self, *buffers: Buffer) -> None:
        self._queue(*buffers)
        self._flush()

    def _queue(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            if len(buffer):
                self._output.add((buffer,))
                self._queued += len(buffer)

    def _flush(self) -> None:
        """Hand the output to the socket, as far as it takes it."""
        self._flush_soon = False
        transport = self.transport
        while self._output and not self._choked:
            if transport.is_closing():
                self._output.clear()
                return
            self._writer.write(self._output.next_pieces())

    # The end

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, clock: Clock) -> None:
        """Say good-bye and close; no request is in flight."""
        if self._transport is None:
            return
        if self._handshake is not None or self._output or self._choked or self.is_lost:
            self._transport.abort()
        else:
            self._send(pack_request(self.info.mode, Command.DISC, 0))
            self._transport.close()
        timer = clock.call_later(CLOSE_GRACE_S, self._transport.abort)
        try:
            await self.lost()
        finally:
            timer.cancel()


def _refusal(error: HandshakeError) -> ServerError:
    refused = ServerError(str(error))
    if error.hint is not None:
        refused.add_note(error.hint)
    return refused
