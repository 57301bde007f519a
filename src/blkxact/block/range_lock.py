"""Ranges of a disk that requests hold while they are under way.

In a qcow2 image writes into clusters that stay where they are share a range; a request that moves
clusters (allocation, discard, zeroes) holds it exclusively. So no write continues into a cluster
that has been reused, and two first writes to a cluster do not both allocate it.
Readers of a point in time share ranges; the guest's write that would change one waits.

Invariant: requests wait only for those that came before them, so there is no deadlock and no
starvation.

QEMU's counterpart: ``cluster_allocs`` and ``dependent_requests`` of ``QCowL2Meta``;
``block/reqlist.c``; serialising requests of ``block/io.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HeldRange:
    """A range that a request holds, or waits for."""

    __slots__ = ("end", "exclusive", "released", "start")

    def __init__(self, start: int, end: int, *, exclusive: bool) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.released: asyncio.Future[None] | None = None
        """Set when somebody waits for the range."""


class RangeLock:
    """All ranges of one disk, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._held: dict[HeldRange, None] = {}
        self._exclusive = 0

    def try_share(self, start: int, end: int) -> HeldRange | None:
        """Hold a range together with other writers, if that needs no waiting."""
        if self._exclusive and self._conflicts(start, end, exclusive=False):
            return None
        held = HeldRange(start, end, exclusive=False)
        self._held[held] = None
        return held

    def try_acquire(self, start: int, end: int) -> HeldRange | None:
        """Hold a range exclusively, if that needs no waiting."""
        if self.free_until(start, end) < end:
            return None
        held = HeldRange(start, end, exclusive=True)
        self._held[held] = None
        self._exclusive += 1
        return held

    async def acquire_when_free(self, start: int, end: int) -> HeldRange:
        """Hold a range exclusively once nobody holds a part of it.

        It takes no place in the order meanwhile: later requests for what is free now go on.
        """
        while (held := self.try_acquire(start, end)) is None:
            await asyncio.shield(_released(self._conflicts(start, end, exclusive=True)[0]))
        return held

    def free_until(self, start: int, end: int) -> int:
        """Return where the first part of a range starts that is held or waited for, or ``end``."""
        conflicts = self._conflicts(start, end, exclusive=True)
        return min((max(start, other.start) for other in conflicts), default=end)

    async def acquire(self, start: int, end: int, *, exclusive: bool) -> HeldRange:
        """Hold a range; waits for those before that are in the way."""
        # All futures at once: of two conflicts the second may be over before the first.
        waits = [_released(other) for other in self._conflicts(start, end, exclusive=exclusive)]
        held = HeldRange(start, end, exclusive=exclusive)
        self._held[held] = None
        self._exclusive += exclusive
        try:
            for wait in waits:
                await asyncio.shield(wait)  # a cancelled waiter leaves the others alone
        except BaseException:
            self.release(held)
            raise
        return held

    @asynccontextmanager
    async def shared(self, start: int, end: int) -> AsyncIterator[None]:
        """Hold a range together with others while the block runs."""
        held = self.try_share(start, end) or await self.acquire(start, end, exclusive=False)
        try:
            yield
        finally:
            self.release(held)

    async def pass_by(self, start: int, end: int) -> None:
        """Return when all who hold a part of the range now have let it go."""
        if self._held:
            self.release(await self.acquire(start, end, exclusive=True))

    def release(self, held: HeldRange) -> None:
        """Release a range, and resume those who waited for it."""
        del self._held[held]
        self._exclusive -= held.exclusive
        if held.released is not None:
            held.released.set_result(None)

    def _conflicts(self, start: int, end: int, *, exclusive: bool) -> list[HeldRange]:
        return [
            other
            for other in self._held
            if other.start < end and start < other.end and (exclusive or other.exclusive)
        ]


def _released(held: HeldRange) -> asyncio.Future[None]:
    """Return the future that ends when a range is released."""
    if held.released is None:
        held.released = asyncio.get_running_loop().create_future()
    return held.released
