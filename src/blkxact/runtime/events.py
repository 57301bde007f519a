"""Events on their way up: one sink, to which every session subscribes.

A module that produces an event calls ``EventSink.emit``; it never knows who listens. The timestamp
is taken here, once, so all sessions see the same event.

Source: ``qapi/*.json`` for the events' members, ``docs/interop/qmp-spec.txt`` section 2.5 for the
envelope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from blkxact.runtime.clock import Clock

Event = dict[str, Any]
Listener = Callable[[Event], None]


class EventSink:
    """Stamps events and hands each to every subscriber, in the order of subscription."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: dict[int, Listener] = {}
        self._next_key = 0

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
        for listener in list(self._listeners.values()):
            listener(event)
