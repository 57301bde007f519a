"""What ``--testing`` lets clients ask for, whatever does it: faults, pauses, steps, time, a record.

The commands ``x-blkxact-*`` call it; ``kit/remote.py`` is it. Numbers name faults and pauses alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class TestControl(Protocol):
    """The test's hold on one emulator. All methods raise ``QmpError`` for what is impossible."""

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
        """Order a fault; return its number. ``seed`` is that of a power failure."""

    def lose_power(self, seed: int) -> None:
        """End the process as a power failure does; ``seed`` decides what is there afterwards."""

    def remove(self, number: int) -> int:
        """Cancel a fault or end a pause; return how often it has struck."""

    def add_pause(self, place: str, facts: Mapping[str, str], *, nth: int) -> int:
        """Let who passes a place wait there, the ``nth`` time; return the pause's number."""

    async def reached(self, number: int) -> None:
        """Return once somebody waits where a pause is."""

    async def step(self, job: str) -> bool:
        """Let a job do one piece of its work; return False once the work is done."""

    async def release(self, job: str) -> None:
        """Let a job go on that ``step`` holds."""

    async def advance(self, seconds: float) -> None:
        """Let so much time pass at once."""

    def record(self, *, enable: bool) -> list[str]:
        """Note all passings of points from now on, or no longer; return those noted so far."""
