"""Faults that a test orders: what fails, where, and at which passing.

A fault stays ordered when the emulator is restarted, and counts on.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Callable
from typing import Any

from blkxact.errors import QmpError, os_error
from blkxact.runtime.points import Point
from blkxact.storage.errors import TornWriteError

from .errors import KitError
from .places import Facts, Place, Posts, find_place


class Fault:
    """A fault that is ordered."""

    def __init__(
        self, posts: Posts, place: Place, strike: Callable[[], None], nth: int, times: int | None
    ) -> None:
        if nth < 1:
            raise KitError(f"nth={nth}: the first time is 1")
        self.place = place
        self.struck: int = 0
        """How often it has struck."""
        self._strike = strike
        self._wait = nth - 1
        self._times = times
        self._end = posts.add(place, self._pass)

    def __repr__(self) -> str:
        return f"<Fault at {self.place.name}, struck {self.struck} times>"

    def remove(self) -> None:
        """Cancel it."""
        self._end()

    def _pass(self, facts: Facts) -> None:
        del facts
        if self._wait:
            self._wait -= 1
        elif self._times is None or self.struck < self._times:
            self.struck += 1
            self._strike()


class CommandFaults:
    """What may happen to a command that a client sends, the ``nth`` time it does."""

    def __init__(self, order: Callable[..., Fault], command: str, nth: int) -> None:
        self._order = order
        self._facts = {"command": command}
        self._nth = nth

    def drop_reply(self) -> Fault:
        """Execute it, and cut the connection before its reply."""
        return self._order("monitor.reply", nth=self._nth, **self._facts)

    def cut(self) -> Fault:
        """Read it, and cut the connection before it is executed."""
        return self._order("monitor.received", nth=self._nth, cut=True, **self._facts)

    def refuse(self, error: str) -> Fault:
        """Refuse it with this text, and execute nothing."""
        return self._order("command.execute", nth=self._nth, error=error, **self._facts)


class Faults:
    """The faults of a test."""

    def __init__(self, posts: Posts, kill: Callable[[], None]) -> None:
        self._posts = posts
        self._kill = kill
        self._ordered: list[Fault] = []

    def at(
        self,
        place: str,
        *,
        nth: int = 1,
        times: int | None = 1,
        errno: int = errnos.EIO,
        error: str | None = None,
        **facts: Any,
    ) -> Fault:
        """Let what happens at a place fail: the ``nth`` time, ``times`` times (None: from then on).

        ``place`` is ``NODE.REQUEST`` or a point. A request fails with ``errno``, a command or a job
        with the text ``error``, and a connection is cut. ``facts`` choose passings. Raises
        ``KitError`` for a place that does not exist, or where nothing can fail.
        """
        return self._order(place, nth=nth, times=times, errno=errno, error=error, **facts)

    def torn(self, path: str, *, nth: int = 1, errno: int = errnos.ENOSPC) -> Fault:
        """Let the ``nth`` write to a file fail; half of its bytes are written."""
        place = find_place("storage.pwrite", {"path": path})

        def strike() -> None:
            raise TornWriteError(*os_error(errno).args)

        return self._add(Fault(self._posts, place, strike, nth, 1))

    def kill_at(self, place: str, *, nth: int = 1, **facts: Any) -> Fault:
        """End the emulator as ``kill -9`` does, exactly there."""
        return self._add(Fault(self._posts, find_place(place, facts), self._kill, nth, 1))

    def on_command(self, command: str, *, nth: int = 1) -> CommandFaults:
        """Return what may happen to a command, the ``nth`` time that a client sends it."""
        return CommandFaults(self._order, command, nth)

    def before_event(self, event: str, *, nth: int = 1) -> Fault:
        """Cut the connection of a client before it gets an event."""
        return self._order("monitor.event", nth=nth, event=event)

    def clear(self) -> None:
        """Cancel all."""
        while self._ordered:
            self._ordered.pop().remove()

    def _order(
        self,
        where: str,
        *,
        nth: int = 1,
        times: int | None = 1,
        errno: int = errnos.EIO,
        error: str | None = None,
        cut: bool = False,
        **facts: Any,
    ) -> Fault:
        place = find_place(where, facts)
        strike = striker(place.point, errno, error, cut=cut)
        return self._add(Fault(self._posts, place, strike, nth, times))

    def _add(self, fault: Fault) -> Fault:
        self._ordered.append(fault)
        return fault


def striker(
    point: Point, errno: int = errnos.EIO, error: str | None = None, *, cut: bool = False
) -> Callable[[], None]:
    """Return the function that fails a passing as its point allows; raises ``KitError``."""
    if not point.fails:
        raise KitError(f"nothing can fail at {point.name}")
    if error is not None and QmpError not in point.fails:
        raise KitError(f"what fails at {point.name} has no text")
    is_request = OSError in point.fails and error is None
    can_be_cut = ConnectionError in point.fails and not is_request

    def strike() -> None:
        if is_request:
            raise os_error(errno)
        if can_be_cut and (cut or QmpError not in point.fails):
            raise ConnectionResetError
        raise QmpError(error if error is not None else os.strerror(errno))

    return strike
