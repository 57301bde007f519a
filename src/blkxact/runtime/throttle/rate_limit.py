"""Leaky buckets: how fast a job may go (``speed``), and the core of throttling.

Units (bytes, requests) run into a bucket when they are let through, and leak out of it with time. A
bucket that is too full makes the next request wait.

QEMU's counterpart: ``include/qemu/ratelimit.h`` with BLOCK_JOB_SLICE_TIME; LeakyBucket of
``util/throttle.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.runtime.clock import Clock

SLICE_SECONDS: Final = 0.1
"""A burst of this much time's worth of bytes may go at once."""


class LeakyBucket:
    """A bucket that leaks ``rate`` units a second (more than 0); it begins empty at ``now``."""

    __slots__ = ("_leaked_at", "level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.level = 0.0
        self._leaked_at = now

    def leak(self, now: float) -> None:
        """Let out what has leaked since the last time."""
        self.level = max(0.0, self.level - self.rate * (now - self._leaked_at))
        self._leaked_at = now

    def seconds_above(self, level: float) -> float:
        """Return in how many seconds the bucket is down at ``level``; 0: it is."""
        return max(0.0, (self.level - level) / self.rate)


class RateLimit:
    """Computes how long to wait before the next request; ``speed`` is bytes a second, 0: no limit.

    Who has gone beyond a slice waits until all is paid, as in QEMU, also after a change of speed.
    """

    def __init__(self, clock: Clock, speed: int = 0) -> None:
        self._clock = clock
        self._bucket = LeakyBucket(speed, clock.monotonic())
        self.speed = speed

    def set_speed(self, speed: int) -> None:
        """Change the limit; what was spent under the old one still counts."""
        self._bucket.leak(self._clock.monotonic())
        self._bucket.rate = speed
        self.speed = speed

    def account(self, length: int) -> None:
        """Note that ``length`` bytes went through."""
        if self.speed:
            self._bucket.leak(self._clock.monotonic())
            self._bucket.level += length

    def delay(self) -> float:
        """Return the seconds to wait before more may go; 0 when nothing stands against it."""
        if not self.speed:
            return 0.0
        self._bucket.leak(self._clock.monotonic())
        ahead = self._bucket.seconds_above(0)
        return ahead if ahead > SLICE_SECONDS else 0.0
