"""The event loop's waiting: it looks again for a moment before it goes to sleep.

In a serial exchange each side sleeps while the other works, and on a virtual machine to wake a
processor takes longer than to serve a small request. So while requests follow each other closely,
the loop asks for the next one over and over for up to ``MAX_POLL_S`` before it sleeps.

How long it does so follows from the last wait, as in QEMU's iothreads (``poll-max-ns``):

* A wait that was over within the time of polling leaves it as it is.
* One that was longer than ``MAX_POLL_S`` ends the polling: clients that are slower, and an idle
  daemon, cost nothing.
* One in between doubles it, from ``FIRST_POLL_S`` on.

With one processor there is no polling: whoever sends the next request needs it.

QEMU's counterpart: ``util/aio-posix.c`` (aio_poll, try_poll_mode).
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable
from typing import Final

FIRST_POLL_S: Final = 4e-6
MAX_POLL_S: Final = 100e-6
"""Seconds of polling before a sleep: initial and maximum."""

Ready = list[tuple[selectors.SelectorKey, int]]


class PollingSelector(selectors.DefaultSelector):
    """The selector of an event loop; ``now`` is the loop's clock."""

    def __init__(self, *, max_poll_s: float = MAX_POLL_S) -> None:
        super().__init__()
        self.now: Callable[[], float]
        self.poll_s = 0.0
        """How long the next wait polls."""
        self._max_poll_s = max_poll_s

    def select(self, timeout: float | None = None) -> Ready:
        """Wait for events."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        select, now = super().select, self.now
        started = now()
        if self.poll_s:
            polled = self.poll_s if timeout is None else min(self.poll_s, timeout)
            while now() - started < polled:
                ready = select(0)
                if ready:
                    return ready
            if timeout is not None:
                timeout -= now() - started
                if timeout <= 0:
                    return []
        ready = select(timeout)
        self._learn(now() - started)
        return ready

    def _learn(self, waited: float) -> None:
        """Choose how long the next wait polls, after one that was longer than the polling."""
        if waited > self._max_poll_s:
            self.poll_s = 0.0
        else:
            self.poll_s = min(max(2 * self.poll_s, FIRST_POLL_S), self._max_poll_s)


def polling_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that polls, where there is more than one processor."""
    if len(os.sched_getaffinity(0)) < 2:
        return asyncio.SelectorEventLoop()
    selector = PollingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    selector.now = loop.time
    return loop
