"""How fast a job copies now: the median pace of the last seconds.

A job's progress counts zeroes and holes, which it skips at once, like bytes that it copies. The
mean over such a jump says nothing; the median, weighted by time, leaves it out, because a jump
takes next to no time.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 10.0
STRETCH_SECONDS: Final = 1.0
"""The least time over which progress is averaged: jobs copy in bursts, above all with a speed."""


class _Stretch(NamedTuple):
    end: float
    seconds: float
    length: int


class Pace:
    """Takes offsets in bytes at times in seconds."""

    def __init__(self) -> None:
        self._stretches: deque[_Stretch] = deque()
        self._offset: int | None = None
        """The latest. ``_begin`` and ``_begun`` are offset and time of the stretch's begin."""
        self._begin = 0
        self._begun = 0.0

    def note(self, offset: int, now: float) -> None:
        """Take the progress at a time. The first is where the count begins."""
        if self._offset is None or offset < self._offset:
            self._begin, self._begun = offset, now
        elif offset > self._offset and now >= self._begun + STRETCH_SECONDS:
            self._stretches.append(_Stretch(now, now - self._begun, offset - self._begin))
            self._begin, self._begun = offset, now
        self._offset = offset

    def rate(self, now: float) -> float | None:
        """Return the pace in bytes per second; None while it is not known."""
        while len(self._stretches) > 1 and self._stretches[0].end <= now - WINDOW_SECONDS:
            self._stretches.popleft()
        paces = [(stretch.length / stretch.seconds, stretch.seconds) for stretch in self._stretches]
        if self._offset is not None and now > self._begun:
            seconds = now - self._begun
            paces.append(((self._offset - self._begin) / seconds, seconds))
        if not any(pace for pace, _ in paces):
            return None
        paces.sort()
        half = sum(seconds for _, seconds in paces) / 2
        for pace, seconds in paces:
            half -= seconds
            if half < 0:
                return pace
        return paces[-1][0]
