"""Time, passed in: the daemon gets the system's clock, a test gets one that it moves itself."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Timer(Protocol):
    """What ``Clock.call_later`` returns."""

    def cancel(self) -> None:
        """Make sure that the function is not called, if it has not been."""


class Clock(Protocol):
    """The two clocks of QEMU that the block layer needs."""

    def realtime_us(self) -> int:
        """Return microseconds since the epoch (event timestamps)."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back (rate limits, timeouts)."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` on the monotonic clock."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` after ``seconds`` on the monotonic clock."""


class SystemClock:
    """The machine's clock."""

    def realtime_us(self) -> int:
        """Return microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds on the running loop's clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop, whose clock a simulated loop replaces."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` from the running loop."""
        return asyncio.get_running_loop().call_later(seconds, function)


class SteppedClock(SystemClock):
    """A monotonic clock that stands still until it is moved (the qtest socket)."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._timers: list[tuple[int, int, _SteppedTimer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Return the seconds that the clock was moved by."""
        return self.now_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has moved on by ``seconds``."""
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, partial(_wake, moved))
        try:
            await moved
        finally:
            timer.cancel()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` from a ``move``."""
        timer = _SteppedTimer(function)
        due = self.now_ns + max(0, round(seconds * 1e9))
        heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    def move(self, now_ns: int) -> None:
        """Set the time, stopping at each timer on the way to call it."""
        while self._timers and self._timers[0][0] <= now_ns:
            due, _, timer = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, due)
            timer.fire()
        self.now_ns = now_ns


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _SteppedTimer:
    """A timer of a ``SteppedClock``."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def cancel(self) -> None:
        self._function = None

    def fire(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
