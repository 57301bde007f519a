"""The time of an emulator of the kit: the machine's, but a test can let it jump ahead.

Speed limits and timeouts run by themselves as they do elsewhere; ``advance`` lets an hour of them
pass at once. It stops at each timer on the way and lets what that started come to rest, so a job
with a speed limit does all the pieces that it would have done in that time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final

from blkxact.runtime.clock import SystemClock, Timer
from blkxact.runtime.steps import yield_turn
from blkxact.testing.waiting import is_idle

SETTLE_S: Final = 0.05
"""Seconds for which requests that are under way are waited for once the loop is idle."""
FEW_TIMERS: Final = 1000


class AdvancingClock:
    """A clock that also goes on by itself; it is used in the emulator's thread only."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead = 0.0
        """Seconds by which it is ahead of the machine's."""
        self._timers: list[tuple[float, int, _Timer]] = []
        self._prune_at = FEW_TIMERS
        """Number of timers at which those that are over are thrown away."""
        self._order = itertools.count()
        self.requests: Callable[[], int] = lambda: 0
        """Returns how many requests are under way."""

    @property
    def virtual(self) -> AdvancingClock:
        """The guest's clock: this one."""
        return self

    def realtime_us(self) -> int:
        """Return microseconds since the epoch."""
        return self._system.realtime_us() + round(self._ahead * 1e6)

    def monotonic(self) -> float:
        """Return seconds."""
        return self._system.monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        over = asyncio.Event()
        timer = self.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` after ``seconds``."""
        timer = _Timer(function)
        if len(self._timers) >= self._prune_at:
            self._timers = [entry for entry in self._timers if not entry[2].over]
            heapq.heapify(self._timers)
            self._prune_at = max(FEW_TIMERS, 2 * len(self._timers))
        heapq.heappush(self._timers, (self.monotonic() + seconds, next(self._order), timer))
        timer.handle = self._system.call_later(seconds, timer.fire)
        return timer

    async def advance(self, seconds: float) -> None:
        """Go ahead by ``seconds``; return when what was due has been done."""
        await self._settle()
        end = self.monotonic() + seconds
        while (due := self._next_due()) is not None and due <= end:
            self._ahead += max(0.0, due - self.monotonic())
            heapq.heappop(self._timers)[2].fire()
            await self._settle()
        self._ahead += max(0.0, end - self.monotonic())
        await self._settle()

    def _next_due(self) -> float | None:
        while self._timers and self._timers[0][2].over:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    async def _settle(self) -> None:
        """Return when nothing more happens without time or somebody outside."""
        loop = asyncio.get_running_loop()
        give_up = self._system.monotonic() + SETTLE_S
        while True:
            await yield_turn()
            if not is_idle(loop):
                give_up = self._system.monotonic() + SETTLE_S
            elif not self.requests() or self._system.monotonic() > give_up:
                return


class _Timer:
    """One call to come: by the machine's time, or by a jump."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self.handle: Timer | None = None

    @property
    def over(self) -> bool:
        return self._function is None

    def cancel(self) -> None:
        self._function = None
        if self.handle is not None:
            self.handle.cancel()

    def fire(self) -> None:
        function = self._function
        self.cancel()
        if function is not None:
            function()


class Clock:
    """The emulator's clock, for tests."""

    def __init__(self, call: Callable[..., object], clock: Callable[[], AdvancingClock]) -> None:
        self._call = call
        self._clock = clock

    def advance(self, seconds: float) -> None:
        """Let so much time pass at once, for speed limits, throttling and timeouts."""
        self._call(lambda _layer: self._clock().advance(seconds))
