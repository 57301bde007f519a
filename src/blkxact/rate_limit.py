"""How fast a job may go (``speed``): bytes are let through in slices of time.

QEMU's counterpart: ``include/qemu/ratelimit.h`` with BLOCK_JOB_SLICE_TIME.
"""

from __future__ import annotations

from typing import Final

from .clock import Clock

SLICE_SECONDS: Final = 0.1
"""A burst of this much time's worth of bytes may go at once."""


class RateLimit:
    """Tells how long to wait before the next request; ``speed`` is bytes a second, 0: no limit."""

    def __init__(self, clock: Clock, speed: int = 0) -> None:
        self._clock = clock
        self.speed = speed
        self._paid_until = clock.monotonic()

    def set_speed(self, speed: int) -> None:
        """Change the limit; what was spent under the old one is forgotten."""
        self.speed = speed
        self._paid_until = self._clock.monotonic()

    def account(self, length: int) -> None:
        """Note that ``length`` bytes went through."""
        if self.speed:
            start = max(self._paid_until, self._clock.monotonic())
            self._paid_until = start + length / self.speed

    def delay(self) -> float:
        """Return the seconds to wait before more may go; 0 when nothing stands against it."""
        if not self.speed:
            return 0.0
        ahead = self._paid_until - self._clock.monotonic()
        return ahead if ahead > SLICE_SECONDS else 0.0

    def slice_bytes(self, least: int, most: int) -> int:
        """Return how much to ask for at once, so that pieces stay short in time."""
        if not self.speed:
            return most
        return max(least, min(most, int(self.speed * SLICE_SECONDS)))
