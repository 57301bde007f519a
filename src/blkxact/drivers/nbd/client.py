"""A connection to one export that is made again when it is lost.

    state      a request            the connection is lost    the delay is over   a new connection
    CONNECTED  is sent              WAITING if there is a     -                   -
                                    delay, else FAILING
    WAITING    waits; the first     -                         FAILING: those      CONNECTED: those
               starts the delay                               that wait fail      that wait are sent
    FAILING    fails, and sees to   -                         -                   CONNECTED
               it that somebody
               tries to connect
    QUIT       fails                -                         -                   -

Invariants:

* A request that was sent and has no answer is sent again after WAITING: it does the same twice. In
  FAILING and QUIT it fails with EIO.
* A server that breaks the protocol, or that has another export now under the same name, is not
  spoken to again.
* Nobody connects before there is a request that needs it. Between two tries is a pause that grows.
* Writes that were answered but not flushed may be lost with a server. Whoever sets a delay vouches
  for a server that keeps them; without one no flush succeeds any more (as with files whose flush
  has failed), so no backup is taken for good that is not. QEMU forgets them silently.

QEMU's counterpart: the states of ``block/nbd.c``; ``nbd/client-connection.c``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, TypeVar

from blkxact.errors import QmpError, os_error
from blkxact.nbd.protocol import Command, CommandFlag
from blkxact.nbd.reply_stream import Answer
from blkxact.runtime.clock import Clock, Timer, within
from blkxact.storage.api import Buffer

from .channel import NbdChannel

MAX_REQUESTS: Final = 16
"""Requests in flight, as in QEMU (MAX_NBD_REQUESTS)."""
CONNECT_TIMEOUT_S: Final = 30.0
"""Seconds that one try to connect may take, with the handshake."""
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 16.0
"""Seconds between two tries; each pause is twice as long as the one before."""

_WRITES: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES})

T = TypeVar("T")
Connect = Callable[[], Awaitable[NbdChannel]]
"""Returns a channel after its handshake; raises ``QmpError``."""

_log = logging.getLogger(__name__)


class ClientState(Enum):
    """What becomes of a request now."""

    CONNECTED = "connected"
    WAITING = "waiting"
    FAILING = "failing"
    QUIT = "quit"


class OtherExportError(QmpError):
    """The server has something else under the export's name than before."""


class NbdClient:
    """One export. ``reconnect_delay``: seconds that requests wait for a server to come back."""

    def __init__(self, connect: Connect, clock: Clock, reconnect_delay: float = 0) -> None:
        self.state = ClientState.WAITING
        self._connect = connect
        self._clock = clock
        self._delay = reconnect_delay
        self._channel: NbdChannel | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[NbdChannel] | None = None
        """The first connection, while it is being made."""
        self._requests = 0
        """Requests that have no answer yet, sent or not."""
        self._changed: asyncio.Future[None] | None = None
        """Done when the state changes."""
        self._delay_timer: Timer | None = None
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._writes = 0
        """Writes that were answered, and are not durable by themselves."""
        self._flushed_writes = 0
        self._writes_lost = False

    async def open(self, timeout_s: float = 0) -> NbdChannel:
        """Make the first connection; raises ``QmpError``.

        It is tried once, or as often as it takes within ``timeout_s``. ``cancel_waiting`` and
        ``yank`` end it.
        """
        self._opening = opening = asyncio.ensure_future(self._connect_first(timeout_s))
        try:
            channel = await opening
        except asyncio.CancelledError:
            if opening.done() and not opening.cancelled() and not opening.exception():
                opening.result().abort()  # it was made just before
            current = asyncio.current_task()
            if self.state is ClientState.WAITING or (current and current.cancelling()):
                raise
            raise _cancelled() from None
        finally:
            self._opening = None
        if self.state is ClientState.QUIT:  # since it was made
            channel.abort()
            raise _cancelled()
        self._adopt(channel)
        return channel

    async def _connect_first(self, timeout_s: float) -> NbdChannel:
        if not timeout_s:
            return await self._try_once()
        failures: list[QmpError] = []
        try:
            return await within(self._clock, timeout_s, self._try_often(failures))
        except TimeoutError:
            text = "Connection attempt cancelled by timeout"
            raise (failures[-1] if failures else QmpError(text)) from None

    @property
    def is_waiting(self) -> bool:
        """Whether a request or the first connection waits for the server."""
        return self._requests > 0 or self._opening is not None

    async def request(
        self, command: Command, flags: int, offset: int, length: int, payload: Buffer | None = None
    ) -> Answer:
        """Return the answer to a request; raises ``OSError``.

        ``payload`` must not change before that.
        """
        self._requests += 1
        try:
            answer = await self._ask(command, flags, offset, length, payload)
        finally:
            self._requests -= 1
        if answer.error is not None:
            raise answer.error
        if command in _WRITES and not flags & CommandFlag.FUA:
            self._writes += 1
        return answer

    async def _ask(
        self, command: Command, flags: int, offset: int, length: int, payload: Buffer | None
    ) -> Answer:
        """Send a request until it is answered; raises ``OSError``."""
        async with self._slots:
            while True:
                channel = await self._find_channel()
                answer = await channel.request(command, flags, offset, length, payload)
                if answer is not None:
                    return answer
                self._lose(channel)

    async def flush(self) -> None:
        """Make durable what was answered before; raises ``OSError``."""
        writes = self._writes
        if not self._writes_lost:
            await self.request(Command.FLUSH, 0, 0, 0)
        if self._writes_lost:  # before, or while this flush waited for another connection
            raise _lost_server()
        self._flushed_writes = writes

    def cancel_waiting(self) -> None:
        """Let the requests that wait for a connection fail, and those that would from now on.

        One that was sent goes on.
        """
        if self._channel is not None and self._channel.is_lost:
            self._lose(self._channel)
        if self.state is ClientState.WAITING:
            self._become(ClientState.FAILING)
        if self._opening is not None:
            self._opening.cancel()

    def yank(self) -> None:
        """Cut the connection; nobody connects any more."""
        self._become(ClientState.QUIT)
        if self._opening is not None:
            self._opening.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._channel is not None:
            self._channel.abort()

    async def close(self) -> None:
        """Leave the server. What waits for it fails."""
        self._become(ClientState.QUIT)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(self._clock)

    # States

    def _become(self, state: ClientState) -> None:
        self.state = state
        timer, self._delay_timer = self._delay_timer, None
        if timer is not None:
            timer.cancel()
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)

    def _adopt(self, channel: NbdChannel) -> None:
        self._channel = channel
        self._become(ClientState.CONNECTED)

    async def _find_channel(self) -> NbdChannel:
        """Return the connection, once there is one; raises ``OSError`` if one is not waited for."""
        while True:
            if self.state is ClientState.CONNECTED:
                assert self._channel is not None
                if not self._channel.is_lost:
                    return self._channel
                self._lose(self._channel)
                continue
            if self.state is ClientState.QUIT:
                raise _lost_server()
            self._start_connecting()
            if self.state is ClientState.FAILING:
                raise _lost_server()
            await self._change()

    async def _change(self) -> None:
        """Wait for the state to change, or for the end of the delay."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        if self._delay_timer is None:
            self._delay_timer = self._clock.call_later(self._delay, self.cancel_waiting)
        await asyncio.shield(self._changed)

    def _lose(self, channel: NbdChannel) -> None:
        """Note that a connection has ended; a second call for it does nothing."""
        if channel is not self._channel or self.state is not ClientState.CONNECTED:
            return
        self._channel = None
        if channel.broken:
            self._become(ClientState.QUIT)
        elif self._delay:
            self._become(ClientState.WAITING)
        else:
            self._writes_lost = self._writes_lost or self._writes > self._flushed_writes
            self._become(ClientState.FAILING)

    # Connecting

    def _start_connecting(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect_again())

    async def _connect_again(self) -> None:
        """Try until there is a connection, even when nobody waits for it any more."""
        try:
            channel = await self._try_often([])
        except OtherExportError as error:
            _log.warning("NBD server: %s", error)
            self._become(ClientState.QUIT)
        else:
            self._adopt(channel)
        finally:
            self._connecting = None

    async def _try_often(self, failures: list[QmpError]) -> NbdChannel:
        """Return a connection after as many tries as it takes; notes why the others failed."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await self._try_once()
            except OtherExportError:
                raise
            except QmpError as error:
                failures[:] = [error]
            await self._clock.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_S)

    async def _try_once(self) -> NbdChannel:
        try:
            return await within(self._clock, CONNECT_TIMEOUT_S, self._connect())
        except TimeoutError:
            text = f"Server does not answer within {CONNECT_TIMEOUT_S:.0f} seconds"
            raise QmpError(text) from None


def _cancelled() -> QmpError:
    return QmpError("Connection attempt cancelled by other operation")


def _lost_server() -> OSError:
    return os_error(errno.EIO)
