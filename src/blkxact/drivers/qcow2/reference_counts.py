"""References to the clusters of a file, counted in pieces that exist only where there are any."""

from __future__ import annotations

from array import array
from collections.abc import Callable

PIECE = 32768
"""Clusters counted in one array."""


class ReferenceCounts:
    """Counts for the clusters of a file; references past its end are reported.

    So is a reference to a cluster that has ``maximum`` of them; it is not counted.
    """

    def __init__(
        self,
        clusters: int,
        beyond_end: Callable[[int], None],
        *,
        maximum: int = 2**64 - 1,
        overflow: Callable[[int], None] = lambda _cluster: None,
    ) -> None:
        self.clusters = clusters
        self._beyond_end = beyond_end
        self._maximum = maximum
        self._overflow = overflow
        self._pieces: dict[int, array[int]] = {}

    def add(self, first: int, number: int = 1) -> None:
        """Count one reference to each cluster of a run."""
        end = first + number
        if end > self.clusters:
            self._beyond_end(max(first, self.clusters))
            end = self.clusters
        while first < end:
            index, at = divmod(first, PIECE)
            stop = min(PIECE, at + end - first)
            counts = self._pieces.get(index)
            if counts is None:
                counts = self._pieces[index] = array("Q", bytes(8 * PIECE))
            old = counts[at:stop]
            if any(old):
                counts[at:stop] = array("Q", [count + 1 for count in old])
                if max(old) >= self._maximum:
                    self._take_back(counts, at, stop, first)
            else:
                counts[at:stop] = array("Q", [1]) * (stop - at)
            first += stop - at

    def _take_back(self, counts: array[int], at: int, stop: int, first: int) -> None:
        for place in range(at, stop):
            if counts[place] > self._maximum:
                counts[place] -= 1
                self._overflow(first + place - at)

    def get(self, cluster: int) -> int:
        """Return how many references there are to a cluster."""
        counts = self._pieces.get(cluster // PIECE)
        return counts[cluster % PIECE] if counts is not None else 0

    def part(self, first: int, number: int) -> array[int]:
        """Return the counts of a run."""
        part = array("Q")
        while number:
            index, at = divmod(first, PIECE)
            step = min(number, PIECE - at)
            counts = self._pieces.get(index)
            part.extend(counts[at : at + step] if counts else array("Q", bytes(8 * step)))
            first, number = first + step, number - step
        return part
