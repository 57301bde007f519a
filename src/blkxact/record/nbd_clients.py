"""What the clients of the NBD server do: their connections, and their requests as counts.

A client makes thousands of requests in a second, so its requests are counted, and a line is written
for all of a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact.monitor.recorded import (
    NbdClientConnected,
    NbdClientGone,
    NbdExportOpened,
    NbdRequests,
)

if TYPE_CHECKING:
    from blkxact.runtime.clock import Clock, Timer

    from .kinds import Event

PERIOD_S: Final = 0.1
"""Seconds after a request in which others are counted with it."""
SHOWN_NAME: Final = 200
"""Characters of an export's name."""

Note = Callable[[str, Mapping[str, Any]], None]


class NbdClients:
    """The clients of one emulator's NBD server; ``notes`` are to be called at its points."""

    def __init__(self, record: Callable[[Event], None], clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._counts: dict[int, _Counts] = {}
        self.notes: Mapping[str, Note] = {
            "nbd.connected": self._connected,
            "nbd.transmission": self._opened,
            "nbd.reply": self._answered,
            "nbd.disconnected": self._gone,
        }

    def _connected(self, _point: str, facts: Mapping[str, Any]) -> None:
        self._record(NbdClientConnected(facts["client"]))

    def _opened(self, _point: str, facts: Mapping[str, Any]) -> None:
        self._record(NbdExportOpened(facts["client"], facts["export"][:SHOWN_NAME]))

    def _answered(self, _point: str, facts: Mapping[str, Any]) -> None:
        client = facts["client"]
        counts = self._counts.get(client)
        if counts is None:
            timer = self._clock.call_later(PERIOD_S, lambda: self._show(client))
            counts = self._counts[client] = _Counts(self._clock.monotonic(), timer)
        counts.add(facts["command"], facts["length"])

    def _gone(self, _point: str, facts: Mapping[str, Any]) -> None:
        self._show(facts["client"])
        self._record(NbdClientGone(facts["client"]))

    def _show(self, client: int) -> None:
        counts = self._counts.pop(client, None)
        if counts is not None:
            counts.timer.cancel()
            self._record(counts.event(client, self._clock.monotonic()))


class _Counts:
    """The requests of a client since its last line."""

    def __init__(self, began: float, timer: Timer) -> None:
        self.timer = timer
        self._began = began
        self._reads = self._writes = self._others = 0
        self._read_bytes = self._written_bytes = 0

    def add(self, command: str, length: int) -> None:
        """Count a request."""
        if command == "read":
            self._reads += 1
            self._read_bytes += length
        elif command == "write":
            self._writes += 1
            self._written_bytes += length
        else:
            self._others += 1

    def event(self, client: int, now: float) -> NbdRequests:
        """Return what was counted."""
        return NbdRequests(
            client,
            round((now - self._began) * 1e6),
            self._reads,
            self._read_bytes,
            self._writes,
            self._written_bytes,
            self._others,
        )
