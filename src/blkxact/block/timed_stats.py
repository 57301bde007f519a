"""Latencies of a device's requests in the last seconds: the shortest, the longest, the average.

Two windows of four thirds of the interval overlap by half. Each request counts in both, and what is
reported is the older one's: what happened in the last two thirds to four thirds of the interval.

QEMU's counterpart: ``util/timed-average.c``; ``qapi/block-core.json`` (BlockDeviceTimedStats).
"""

from __future__ import annotations

from typing import Final

NS_PER_SECOND: Final = 10**9
MAX_INTERVAL: Final = (1 << 32) - 1
"""Seconds of the longest interval."""


class _Window:
    """What is counted until ``end``; no dataclass, which would load ``inspect`` at every start."""

    __slots__ = ("count", "end", "high", "low", "total")

    def __init__(self, end: int) -> None:
        self.end = end
        self.low: int | None = None
        self.high = self.total = self.count = 0


class TimedAverage:
    """Values of the last ``interval`` seconds; all times are nanoseconds of one clock."""

    def __init__(self, interval: int, now: int) -> None:
        self._period = interval * NS_PER_SECOND * 4 // 3
        self._windows = [_Window(now + self._period // 2), _Window(now + self._period)]

    def account(self, value: int, now: int) -> None:
        """Count a value."""
        self._renew(now)
        for window in self._windows:
            window.low = value if window.low is None else min(window.low, value)
            window.high = max(window.high, value)
            window.total += value
            window.count += 1

    def describe(self, operation: str, now: int) -> dict[str, int]:
        """Return the members of BlockDeviceTimedStats about latencies."""
        window = self._oldest(now)
        return {
            f"min_{operation}_latency_ns": window.low or 0,
            f"max_{operation}_latency_ns": window.high,
            f"avg_{operation}_latency_ns": window.total // window.count if window.count else 0,
        }

    def queue_depth(self, now: int) -> float:
        """Return how many requests were under way on average, if the values are their times."""
        window = self._oldest(now)
        elapsed = self._period - (window.end - now)
        return window.total / elapsed if window.total else 0

    def _oldest(self, now: int) -> _Window:
        self._renew(now)
        first, second = self._windows
        return first if first.end < second.end else second

    def _renew(self, now: int) -> None:
        """Restart the windows that are over."""
        for number, window in enumerate(self._windows):
            if window.end <= now:
                late = (now - window.end) % self._period
                self._windows[number] = _Window(now + self._period - late)
