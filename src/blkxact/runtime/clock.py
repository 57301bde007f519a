"""Time, passed in: the daemon has the system's clock, a test has one that it moves itself.

An emulator has one ``Clock``; jobs, throttling and timeouts all take it. No other module reads the
time or sets a timer (``tests/test_passed_in.py``).

QEMU's counterpart: QEMU_CLOCK_REALTIME and, as ``Clock.virtual``, QEMU_CLOCK_VIRTUAL.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")

STEPPED_EPOCH_US = 1_500_000_000_000_000
"""Where a ``SteppedClock`` starts (microseconds since 1970)."""


class Timer(Protocol):
    """What ``Clock.call_later`` returns."""

    def cancel(self) -> None:
        """Make sure that the function is not called, if it has not been."""


class Clock(Protocol):
    """The time of one emulator."""

    @property
    def virtual(self) -> Clock:
        """The guest's clock, on which its requests are throttled.

        It is this clock itself, but for an emulator under qtest: there a test steps the guest's
        time while jobs go on in real time, as in QEMU.
        """

    def realtime_us(self) -> int:
        """Return microseconds since the epoch (event timestamps)."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back (rate limits, timeouts)."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` on the monotonic clock."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` after ``seconds`` on the monotonic clock."""


class SystemClock:
    """The machine's clock; its monotonic time is the loop's, which a simulated loop replaces.

    ``loop`` is the running one by default. With ``epoch_us`` the realtime is the loop's time since
    then. ``virtual`` is a clock of the guest's own (qtest).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        epoch_us: int | None = None,
        virtual: Clock | None = None,
    ) -> None:
        self._loop = loop
        self._epoch_us = epoch_us
        self._virtual = virtual

    @property
    def virtual(self) -> Clock:
        """The guest's clock."""
        return self._virtual or self

    def realtime_us(self) -> int:
        """Return microseconds since the epoch."""
        if self._epoch_us is not None:
            return self._epoch_us + round(self.monotonic() * 1_000_000)
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds on the loop's clock."""
        return (self._loop or asyncio.get_running_loop()).time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` from the loop."""
        return (self._loop or asyncio.get_running_loop()).call_later(seconds, function)


class SteppedClock:
    """A clock that stands still until it is moved: by a test, or through the qtest socket."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._timers: list[tuple[int, int, _SteppedTimer]] = []
        self._order = itertools.count()

    @property
    def virtual(self) -> SteppedClock:
        """The guest's clock: this one, so that a step moves everything."""
        return self

    def realtime_us(self) -> int:
        """Return microseconds since the epoch."""
        return STEPPED_EPOCH_US + self.now_ns // 1000

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

    def next_timer_s(self) -> float | None:
        """Return the seconds to the next timer, or None if nobody waits for the clock."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return (self._timers[0][0] - self.now_ns) / 1e9 if self._timers else None

    def advance(self, seconds: float) -> None:
        """Move the clock on by ``seconds``."""
        self.move(self.now_ns + round(seconds * 1e9))

    def move(self, now_ns: int) -> None:
        """Set the time, stopping at each timer on the way to call it."""
        while self._timers and self._timers[0][0] <= now_ns:
            due, _, timer = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, due)
            timer.fire()
        self.now_ns = now_ns


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """Return what ``work`` returns; cancel it and raise ``TimeoutError`` after ``seconds``.

    It is part of the caller's task, so that no result is lost when the caller is cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = task.cancel()

    timer = clock.call_later(seconds, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if timed_out and task.cancelling() == before + 1:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        if timed_out:
            task.uncancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _SteppedTimer:
    """A timer of a ``SteppedClock``."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    @property
    def cancelled(self) -> bool:
        return self._function is None

    def cancel(self) -> None:
        self._function = None

    def fire(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
