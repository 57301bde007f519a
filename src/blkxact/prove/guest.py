"""The guest of a case: it writes at random by seed, and says so before and afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.runtime.clock import Clock

from .history import PAGE, Write, number_in, random_writes

Report = Callable[[tuple[Any, ...]], None]
"""Gets ``("write-begin", Write, instant)``, and ``("write-end", number, instant)`` when a write is
flushed."""
WRITES_AT_A_POINT: Final = 2
"""Writes of each disk where the guest writes as a fault."""


class Guest:
    """The guest of one emulator. ``report`` gets what it does.

    ``backend_of`` gives the way to a disk.
    """

    def __init__(
        self,
        backend_of: Callable[[str], BlockBackend],
        report: Report,
        clock: Clock,
        *,
        disks: Mapping[str, int],
        seed: str,
        first_write: int,
    ) -> None:
        self._backend_of = backend_of
        self._report = report
        self._clock = clock
        self._disks = disks
        self._seed = seed
        self._next_write = first_write
        self._rounds = 0

    async def write_at_a_point(self) -> None:
        """Write as a fault."""
        self._rounds += 1
        await self.write(f"{self._seed}/at/{self._rounds}", WRITES_AT_A_POINT)

    async def write(self, seed: str, each: int, report: Report | None = None) -> None:
        """Write at random, and flush after each: the order of the writes is known.

        ``report`` gets what it does instead of whom the guest was made with.
        """
        source = random.Random(seed)  # noqa: S311 - seeded
        writes = list(random_writes(source, self._next_write, dict(self._disks), each))
        self._next_write += len(writes)
        for write in writes:
            await self._write_one(write, report or self._report)

    async def _write_one(self, write: Write, report: Report) -> None:
        backend = self._backend_of(write.disk)
        report(("write-begin", write, self._clock.monotonic()))
        try:
            await backend.pwrite(write.page * PAGE, write.data())
            await backend.flush()
        except OSError:
            return  # either may be there, now and later
        report(("write-end", write.number, self._clock.monotonic()))

    async def observe(self, pages: Mapping[str, list[int]]) -> dict[str, dict[int, int]]:
        """Return from which writes these pages of the disks are."""
        found: dict[str, dict[int, int]] = {}
        for disk, numbers in pages.items():
            backend = self._backend_of(disk)
            found[disk] = {}
            for page in numbers:
                data = bytes(await backend.pread(page * PAGE, PAGE))
                found[disk][page] = number_in(data, page) if any(data) else 0
        return found
