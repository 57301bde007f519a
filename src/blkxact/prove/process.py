"""The handle of an emulator's process: made by a fork, asked and watched through a pipe."""

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
        try:
            self.channel.send((name, *args))
        except OSError as error:
            raise GoneError from error
        return self._receive_until("reply")

    def take(self) -> None:
        """Handle one message that has come; raises ``GoneError``."""
        self._on_message(self._receive())

    def wait_end(self) -> None:
        """Handle all that comes until it has ended; raises ``EmulatorBugError`` if it does not."""
        with suppress(GoneError):
            while self.channel.poll(ANSWER_S):
                self.take()
            raise EmulatorBugError(f"it has not ended in {ANSWER_S} s")

    def drain(self) -> None:
        """Handle all that has come."""
        with suppress(GoneError):
            self.take_all()

    def take_all(self) -> None:
        """Handle all that has come; raises ``GoneError``."""
        while not self.is_reaped and self.channel.poll():
            self.take()

    def ends_within(self, seconds: float) -> bool:
        """Handle what comes until nothing has for so long; return whether it has ended."""
        with suppress(GoneError):
            while not self.is_reaped:
                if not self.channel.poll(seconds):
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
