"""Events on their way up: one sink, to which every session subscribes.

A module that produces an event calls ``EventSink.emit``; it never knows who listens. The timestamp
is taken here, once, so all sessions see the same event.

An event in ``LIMITED`` is sent at most once in ``PERIOD_S``. Of those that come meanwhile the last
is sent when that time is over.

Source: ``qapi/*.json`` for the events' members, ``docs/interop/qmp-spec.txt`` section 2.5 for the
envelope; monitor_qapi_event_conf in ``monitor/monitor.c`` for the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from blkxact.runtime.clock import Clock

Event = dict[str, Any]
Listener = Callable[[Event], None]

PERIOD_S: Final = 1.0
LIMITED: Final[Mapping[str, str]] = MappingProxyType(
    {"QUORUM_FAILURE": "", "QUORUM_REPORT_BAD": "node-name"}
)
"""Events that may come often, and the member whose values are limited each for itself."""


class EventSink:
    """Stamps events and hands each to every subscriber, in the order of subscription."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: dict[int, Listener] = {}
        self._next_key = 0
        self._waiting: dict[tuple[str, Any], Event | None] = {}
        """The limited events that were sent lately, with what came since."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every later event; return the function that ends it."""
        key = self._next_key
        self._next_key += 1
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Send event ``name`` to every subscriber."""
        seconds, microseconds = divmod(self._clock.realtime_us(), 1_000_000)
        event: Event = {
            "timestamp": {"seconds": seconds, "microseconds": microseconds},
            "event": name,
        }
        if data is not None:
            event["data"] = dict(data)
        if name in LIMITED:
            self._limit((name, event["data"].get(LIMITED[name])), event)
        else:
            self._send(event)

    def _limit(self, key: tuple[str, Any], event: Event) -> None:
        """Send the event, or let it wait for the end of the period."""
        if key in self._waiting:
            self._waiting[key] = event
        else:
            self._send(event)
            self._begin_period(key)

    def _begin_period(self, key: tuple[str, Any]) -> None:
        self._waiting[key] = None
        self._clock.virtual.call_later(PERIOD_S, partial(self._end_period, key))

    def _end_period(self, key: tuple[str, Any]) -> None:
        event = self._waiting.pop(key)
        if event is not None:
            self._send(event)
            self._begin_period(key)

    def _send(self, event: Event) -> None:
        for listener in list(self._listeners.values()):
            listener(event)
