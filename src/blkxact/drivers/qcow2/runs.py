"""Ranges of the disk of one kind: what the map returns, and requests work on."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


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
        """The first byte behind."""
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
