"""Counting requests while they are under way, so that a drain can wait for the last one.

QEMU's counterpart: ``bdrv_inc_in_flight()``.
"""

from __future__ import annotations

import asyncio


class InFlight:
    """What has requests. The hot ones count for themselves: ``in_flight``, ``_wake``."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._idle_waiters: list[asyncio.Future[None]] = []

    def is_idle(self) -> bool:
        """Return whether no request is under way here."""
        return not self.in_flight

    async def idle(self) -> None:
        """Wait until no request is under way here."""
        while self.in_flight:
            waiter = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def begin_request(self) -> None:
        """Count a request, or background work of the driver, as under way."""
        self.in_flight += 1

    def end_request(self) -> None:
        """Take back ``begin_request``."""
        self.in_flight -= 1
        if self._idle_waiters and not self.in_flight:
            self._wake()

    def _wake(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
