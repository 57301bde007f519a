"""Ranges of the disk of one kind: what the map returns, and requests work on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import IntEnum
from operator import itemgetter
from typing import NamedTuple

_LENGTH = itemgetter(1)


class Kind(IntEnum):
    """What an L2 entry says of its cluster."""

    UNALLOCATED = 0
    ZERO = 1
    ZERO_ALLOCATED = 2
    NORMAL = 3
    COMPRESSED = 4
    INVALID = 5
    """A subcluster that cannot be as its entry says."""


class Run(NamedTuple):
    """A range of the disk of one kind, whose clusters follow one another in the file."""

    kind: Kind
    offset: int
    length: int
    host: int
    """Where ``offset`` lies in the file; for a compressed cluster the L2 entry; else 0.

    Subclusters have a place where another of their cluster has one, even if not allocated.
    """

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


def append_run(runs: list[Run], run: Run) -> None:
    """Append a run, or lengthen the last one where both are one."""
    if runs:
        last = runs[-1]
        if last.kind is run.kind and run.kind is not Kind.COMPRESSED:
            end = last.host + last.length if last.host else 0
            if end == run.host:
                runs[-1] = Run(last.kind, last.offset, last.length + run.length, last.host)
                return
    runs.append(run)


def clipped(runs: Iterable[Run], ranges: Sequence[tuple[int, int]]) -> list[Run]:
    """Return what of the runs that are not unallocated lies in ``(offset, length)`` ranges.

    Both are in order. What it costs grows with the runs and what is found, not with the ranges.
    """
    found: list[Run] = []
    at = 0
    for run in runs:
        kind, start, size, host = run
        if kind is Kind.UNALLOCATED:
            continue
        stop = start + size
        at = max(bisect_right(ranges, (start, stop), at) - 1, at)
        while at < len(ranges):
            offset, length = ranges[at]
            end = offset + length
            if offset >= stop:
                break
            if start >= offset and stop <= end:
                found.append(run)
            elif end > start:
                first = max(start, offset)
                place = host + first - start if host and kind is not Kind.COMPRESSED else host
                found.append(Run(kind, first, min(stop, end) - first, place))
            if stop <= end:
                break
            at += 1
    return found


def close_together(
    ranges: Sequence[tuple[int, int]], gap: int
) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Return ``(start, stop, its ranges)`` of groups of ranges that are looked up together.

    Between those of a group are no more than ``gap`` bytes, or less than they have themselves.
    """
    start, stop = ranges[0][0], sum(ranges[-1])
    if stop - start < 2 * sum(map(_LENGTH, ranges)):
        return [(start, stop, list(ranges))]
    groups: list[tuple[int, int, list[tuple[int, int]]]] = []
    for offset, length in ranges:
        if groups and offset - groups[-1][1] <= gap:
            start, _, those = groups[-1]
            those.append((offset, length))
            groups[-1] = start, offset + length, those
        else:
            groups.append((offset, offset + length, [(offset, length)]))
    return groups
