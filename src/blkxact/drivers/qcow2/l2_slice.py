"""A piece of an L2 table in memory."""

from __future__ import annotations

from array import array


class L2Slice:
    """Entries in host byte order; ``[low, high)`` are to be written back."""

    __slots__ = ("bitmaps", "entries", "high", "low")

    def __init__(self, entries: array[int]) -> None:
        self.entries = entries
        self.bitmaps: dict[int, int] = {}
        """Of the entries whose subclusters differ; see ``subclusters``."""
        self.low = len(entries)
        self.high = 0
