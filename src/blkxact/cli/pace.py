"""How fast a job copies now: the median pace of the last seconds.

A job's progress counts zeroes and holes, which it skips at once, like bytes that it copies. The
mean over such a jump says nothing; the median, weighted by time, leaves it out, because a jump
takes next to no time.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 10.0


class _Stretch(NamedTuple):
    """The time from one change of the progress to the next."""

    end: float
    seconds: float
    length: int


class Pace:
    """Takes offsets in bytes at times in seconds."""

    def __init__(self) -> None:
        self._stretches: deque[_Stretch] = deque()
        self._offset: int | None = None
        self._changed = 0.0

    def note(self, offset: int, now: float) -> None:
        """Take the progress at a time. The first is where the count begins."""
        if offset == self._offset:
            return
        if self._offset is not None and offset > self._offset and now > self._changed:
            seconds = now - self._changed
            self._stretches.append(_Stretch(now, seconds, offset - self._offset))
        self._offset, self._changed = offset, now

    def rate(self, now: float) -> float | None:
        """Return the pace in bytes per second; None while it is not known."""
        if not self._stretches:
            return None
        while len(self._stretches) > 1 and self._stretches[0].end <= now - WINDOW_SECONDS:
            self._stretches.popleft()
        paces = [(stretch.length / stretch.seconds, stretch.seconds) for stretch in self._stretches]
        paces.append((0.0, now - self._changed))  # nothing since then
        paces.sort()
        half = sum(seconds for _, seconds in paces) / 2
        for pace, seconds in paces:
            half -= seconds
            if half < 0:
                return pace
        return paces[-1][0]
