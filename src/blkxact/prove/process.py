"""The handle of an emulator's process: made by a fork, asked and watched through a pipe.

What a fork touches is copied, which is most of what a start takes. So a process whose emulator has
ended in good order can serve the next case (``Processes``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final

from .emulator import Orders, serve

ANSWER_S: Final = 60.0
"""Seconds in which the emulator answers; after that it hangs, which is a bug of it."""

Handler = Callable[[tuple[Any, ...]], None]


class GoneError(Exception):
    """The emulator's process has ended."""


class EmulatorBugError(Exception):
    """The emulator does what it must not: it hangs, or ends by itself."""


class EmulatorProcess:
    """One process. ``on_message`` gets what it reports by itself (see ``emulator``)."""

    def __init__(self, orders: Orders, on_message: Handler) -> None:
        self._on_message = on_message
        self.channel, theirs = Pipe()
        worker = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._serve(theirs, orders, worker)
        theirs.close()
        self.is_reaped = False

    def _serve(self, channel: Connection, orders: Orders, worker: int) -> None:
        """Be the emulator, in the fork."""
        try:
            self.channel.close()
            serve(channel, orders, worker)
        finally:
            os._exit(0)

    def wait_ready(self) -> None:
        """Return when clients can connect."""
        self._receive_until("ready")

    def ask(self, name: str, *args: Any) -> Any:
        """Return the answer to an order; raises ``GoneError``."""
        self._send(name, *args)
        return self._receive_until("reply")

    def leave(self) -> bool:
        """End the emulator but not its process; return whether that has kept nothing of it.

        Raises ``GoneError``.
        """
        self._send("leave")
        return bool(self._receive_until("left"))

    def serve_next(self, orders: Orders, on_message: Handler) -> None:
        """Be the next emulator, after ``leave``; raises ``GoneError``."""
        self._on_message = on_message
        self._send(orders)

    def _send(self, *message: Any) -> None:
        try:
            self.channel.send(message)
        except OSError as error:
            self.drain()  # what it reported before it ended counts
            raise GoneError from error

    def take(self) -> None:
        """Handle one message that has come; raises ``GoneError``."""
        self._on_message(self._receive())

    def wait_end(self) -> None:
        """Handle all that comes until it has ended; raises ``EmulatorBugError`` if it does not."""
        with suppress(GoneError):
            while self.channel.poll(ANSWER_S):
                self.take()
            raise EmulatorBugError(f"it has not ended in {ANSWER_S} s")

    def drain(self, wait_s: float = 0) -> bool:
        """Handle what comes until nothing has for so long; return whether it has ended."""
        with suppress(GoneError):
            while not self.is_reaped:
                if not self.channel.poll(wait_s):
                    return False
                self.take()
        return True

    def answer(self) -> None:
        """Let the emulator go on, which waits for that."""
        with suppress(OSError):
            self.channel.send(("ok",))

    def _receive_until(self, kind: str) -> Any:
        while True:
            if not self.channel.poll(ANSWER_S):
                raise EmulatorBugError(f"no answer for {ANSWER_S} s")
            message = self._receive()
            if message[0] == kind:
                return message[-1]
            self._on_message(message)

    def _receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self.channel.recv()
        except (EOFError, OSError) as error:
            raise GoneError from error
        return message

    def reap(self) -> int:
        """Return how the process ended: its exit status, or less than 0 for a signal."""
        if self.is_reaped:
            return 0
        self.is_reaped = True
        self.channel.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End it, whatever it does. A second call does nothing."""
        if not self.is_reaped:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.reap()


class Processes:
    """Makes emulators' processes; one whose emulator has left serves the next.

    Whoever uses it closes it.
    """

    def __init__(self) -> None:
        self._spare: EmulatorProcess | None = None

    def make(self, orders: Orders, on_message: Handler) -> EmulatorProcess:
        """Return a process that begins to be an emulator."""
        spare, self._spare = self._spare, None
        if spare is not None:
            with suppress(GoneError):
                spare.serve_next(orders, on_message)
                return spare
            spare.kill()
        return EmulatorProcess(orders, on_message)

    def take_back(self, process: EmulatorProcess) -> None:
        """Let the emulator end; its process is kept for the next, or ended.

        Raises ``GoneError`` if it ends by itself, ``EmulatorBugError`` if it does not end.
        """
        if process.leave():
            self._spare = process
        else:
            process.kill()

    def close(self) -> None:
        """End the process that is kept."""
        if self._spare is not None:
            self._spare.kill()
            self._spare = None
