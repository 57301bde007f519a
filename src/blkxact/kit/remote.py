"""The kit for clients in other languages: what the commands ``x-blkxact-*`` do.

Only places where somebody can wait can have a pause here: while the whole emulator stood still, no
client could ask it to go on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.runtime.points import POINTS
from blkxact.testing.volatile_files import VolatileStorage

from .clock import AdvancingClock
from .errors import KitError
from .faults import Fault, striker
from .pause import Steps
from .places import Facts, Posts, find_place

PREFIX: Final = "x-blkxact-"
MAX_PASSINGS: Final = 100_000
"""Passings of a record; what comes later is not noted."""


@dataclass(slots=True)
class _Pause:
    """Somebody is to wait at a place."""

    wait: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    end: Callable[[], None] = lambda: None

    @property
    def struck(self) -> int:
        return int(self.reached.is_set())

    def remove(self) -> None:
        self.over.set()
        self.end()

    def passed(self, facts: Facts) -> Any:
        del facts
        self.wait -= 1
        if self.wait != 0:
            return None
        self.reached.set()
        return self.over.wait()


class RemoteControl:
    """Implements ``TestControl`` for one emulator."""

    def __init__(
        self,
        layer: BlockLayer,
        clock: AdvancingClock | None,
        storage: VolatileStorage | None = None,
    ) -> None:
        """``clock`` is None under qtest; ``storage`` is what loses power, None if nothing does."""
        self._layer = layer
        self._clock = clock
        self._storage = storage
        if clock is not None:
            clock.requests = lambda: layer.statistics().requests
        self._posts = Posts()
        self._posts.begin(layer)
        self._steps = Steps(self._posts)
        self._ordered: dict[int, Fault | _Pause] = {}
        self._last = 0
        self._passings: list[str] = []
        self._counts: dict[str, int] = {}
        self._stop_record: list[Callable[[], None]] = []

    def add_fault(
        self,
        place: str,
        facts: Mapping[str, str],
        *,
        action: str,
        nth: int,
        times: int | None,
        errno: int,
        error: str | None,
        seed: int,
    ) -> int:
        """Order a fault; return its number."""
        if action == "power":
            self._check_power()
        try:
            found = find_place(place, facts)
            if action in ("kill", "power"):
                strike = _kill if action == "kill" else partial(self.lose_power, seed)
            else:
                strike = striker(found.point, errno, error, cut=action == "cut")
            return self._add(Fault(self._posts, found, strike, nth, times))
        except KitError as refused:
            raise QmpError(str(refused)) from refused

    def lose_power(self, seed: int) -> None:
        """Leave the files as a power failure would, and kill the process."""
        storage = self._check_power()
        storage.lose_power(random.Random(seed))  # noqa: S311 - seeded
        _kill()

    def _check_power(self) -> VolatileStorage:
        """Return the storage that can lose power."""
        if self._storage is None:
            raise QmpError("Only a daemon with --testing-power can lose power")
        return self._storage

    def remove(self, number: int) -> int:
        """Cancel a fault or end a pause; return how often it has struck."""
        ordered = self._ordered.pop(number, None)
        if ordered is None:
            raise QmpError(f"There is no fault or pause {number}")
        ordered.remove()
        return ordered.struck

    def add_pause(self, place: str, facts: Mapping[str, str], *, nth: int) -> int:
        """Let who passes a place wait there, the ``nth`` time; return the pause's number."""
        try:
            found = find_place(place, facts)
        except KitError as refused:
            raise QmpError(str(refused)) from refused
        if not found.point.waits:
            raise QmpError(f"nobody can wait at {place}")
        pause = _Pause(nth)
        pause.end = self._posts.add(found, pause.passed)
        return self._add(pause)

    async def reached(self, number: int) -> None:
        """Return once somebody waits where a pause is."""
        pause = self._ordered.get(number)
        if not isinstance(pause, _Pause):
            raise QmpError(f"There is no pause {number}")
        await pause.reached.wait()

    async def step(self, job: str) -> bool:
        """Let a job do one piece of its work; return False once the work is done."""
        try:
            return await self._steps.step(self._layer, job)
        except KitError as refused:
            raise QmpError(str(refused)) from refused

    async def release(self, job: str) -> None:
        """Let a job go on that ``step`` holds."""
        await self._steps.release(job)

    async def advance(self, seconds: float) -> None:
        """Let so much time pass at once."""
        if self._clock is None:
            raise QmpError("The clock is that of qtest")
        await self._clock.advance(seconds)

    def record(self, *, enable: bool) -> list[str]:
        """Note all passings of points from now on, or no longer; return those noted so far."""
        while self._stop_record:
            self._stop_record.pop()()
        noted, self._passings = self._passings, []
        if enable:
            self._counts.clear()
            self._stop_record = [self._layer.points.listen(name, self._note) for name in POINTS]
        return noted

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        if str(facts.get("command")).startswith(PREFIX) or len(self._passings) >= MAX_PASSINGS:
            return
        address = POINTS[name].address(facts)
        self._counts[address] = self._counts.get(address, 0) + 1
        self._passings.append(f"{address} #{self._counts[address]}")

    def _add(self, ordered: Fault | _Pause) -> int:
        self._last += 1
        self._ordered[self._last] = ordered
        return self._last


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
