"""How much a mirror copies at a time: what its target takes in about ``PIECE_TIME_S``.

A cancel, a pause and a drain wait for the pieces that are in flight, and a target may be slow.
"""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20
FIRST_PIECE: Final = MIB
"""Bytes of the first pieces."""
MAX_PIECE: Final = 16 * MIB
"""Most bytes of a piece."""
PIECE_TIME_S: Final = 0.25
"""Seconds in which a piece should be copied."""


class PieceSize:
    """The size of the next piece in bytes, at least ``unit``."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self.size = max(FIRST_PIECE, unit)

    def learn(self, copied: int, seconds: float) -> None:
        """Make pieces smaller after one that took long, larger after a whole one that did not."""
        if seconds > PIECE_TIME_S:
            self.size = max(self._unit, min(copied, self.size) // 2)
        elif copied >= self.size:
            self.size = min(2 * self.size, max(MAX_PIECE, self._unit))
