"""Time, passed in: the daemon gets the system's clock, a test gets one that it moves itself."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks of QEMU that the block layer needs."""

    def realtime_us(self) -> int:
        """Return microseconds since the epoch (event timestamps)."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back (rate limits, timeouts)."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` on the monotonic clock."""


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
