"""From runs of clusters to extents: where the bytes of the disk can be read in a host's file.

What the file below knows of data and holes is asked for few long ranges, not for each run: a
question may cost the host a walk through the whole file, however short the range. Holes are
reported as zeroes by whole clusters only: finer ones would cost the reader more than they spare.

QEMU's counterpart: ``qcow2_co_block_status``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

from blkxact.block.types import Extent, Status
from blkxact.storage.api import StorageFile

from .metadata_file import Child
from .runs import Kind, Run

GAP_LIMIT = 64 << 20
"""Bytes between two runs in the file up to which one question covers both."""

_LENGTH = itemgetter(1)

ALLOCATED_DATA = Status.DATA | Status.ALLOCATED
ALLOCATED_ZERO = Status.ZERO | Status.ALLOCATED
HOLE = ALLOCATED_DATA | Status.ZERO
"""A cluster with a place in the file, where nothing was written yet."""

_STATUS = {
    Kind.UNALLOCATED: Status.NONE,
    Kind.ZERO: ALLOCATED_ZERO,
    Kind.ZERO_ALLOCATED: ALLOCATED_ZERO | Status.PREALLOCATED,
    Kind.NORMAL: ALLOCATED_DATA,
    Kind.COMPRESSED: ALLOCATED_DATA | Status.COMPRESSED,
}


async def run_extents(child: Child, runs: list[Run], cluster_size: int) -> list[Extent]:
    """Return the extents of runs that cover a range."""
    below = await _ask(child, runs)
    extents: list[Extent] = []
    for run in runs:
        kind, offset, length, host = run
        if kind is not Kind.NORMAL:
            _append(extents, Extent(offset, length, _STATUS[kind]))
        elif below.start <= host and host + length <= below.end:
            place = host + below.shift
            _append(extents, Extent(offset, length, ALLOCATED_DATA, below.file, place))
        else:
            for extent in _normal_extents(run, below, cluster_size):
                _append(extents, extent)
    return extents


class _Below:
    """What the file below said: extents in order."""

    def __init__(self, extents: list[Extent]) -> None:
        self._extents = extents
        self._starts = [extent.offset for extent in extents]
        # Mostly all of it is data of one file: then there is nothing to look for.
        self.start = self.end = self.shift = 0
        self.file: StorageFile | None = None
        longest = max(extents, key=_LENGTH, default=None)
        if longest is not None and longest.file and not longest.status & Status.ZERO:
            self.start, self.end = longest.offset, longest.offset + longest.length
            self.file, self.shift = longest.file, longest.file_offset - longest.offset

    def within(self, start: int, end: int) -> Iterator[Extent]:
        """Yield the extents that touch a range."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for extent in self._extents[at:]:
            if extent.offset >= end:
                break
            if extent.offset + extent.length > start:
                yield extent


async def _ask(child: Child, runs: list[Run]) -> _Below:
    """Ask the file below about the places of all data, in as few questions as is sensible."""
    places = sorted((run.host, run.host + run.length) for run in runs if run.kind is Kind.NORMAL)
    questions: list[tuple[int, int]] = []
    for start, end in places:
        if questions and start - questions[-1][1] <= GAP_LIMIT:
            questions[-1] = questions[-1][0], max(questions[-1][1], end)
        else:
            questions.append((start, end))
    answers: list[Extent] = []
    for start, end in questions:
        answers += await child.block_status(start, end - start)
    return _Below(answers)


def _normal_extents(run: Run, below: _Below, cluster_size: int) -> Iterator[Extent]:
    """Yield the extents of clusters with data: pieces in one file, and holes of whole clusters."""
    found = list(below.within(run.host, run.host + run.length))
    file, shift = _common_file(found)
    delta = run.offset - run.host
    position = run.offset
    for start, end in _holes(run, found, cluster_size):
        if start > position:
            yield _data(position, start, file, shift - delta)
        yield Extent(start, end - start, HOLE)
        position = end
    if position < run.end:
        yield _data(position, run.end, file, shift - delta)


def _data(start: int, end: int, file: StorageFile | None, shift: int) -> Extent:
    return Extent(start, end - start, ALLOCATED_DATA, file, start + shift if file else 0)


def _holes(run: Run, found: list[Extent], cluster_size: int) -> Iterator[tuple[int, int]]:
    """Yield the whole clusters of a run, as ranges of the disk, in which the file has no data."""
    for extent in found:
        if extent.status & Status.ZERO:
            start = max(extent.offset - run.host, 0) + run.offset
            end = min(extent.offset + extent.length - run.host, run.length) + run.offset
            # The run's own ends may cut their clusters.
            if start > run.offset:
                start = -(-start // cluster_size) * cluster_size
            if end < run.end:
                end -= end % cluster_size
            if start < end:
                yield start, end


def _common_file(found: list[Extent]) -> tuple[StorageFile | None, int]:
    """Return the file in which all data lies, and how far it is shifted there; else None."""
    data = [extent for extent in found if not extent.status & Status.ZERO]
    if not data or data[0].file is None:
        return None, 0
    file, shift = data[0].file, data[0].file_offset - data[0].offset
    for extent in data[1:]:
        if extent.file is not file or extent.file_offset - extent.offset != shift:
            return None, 0
    return file, shift


def _append(extents: list[Extent], extent: Extent) -> None:
    """Append an extent, or lengthen the last one where both are one."""
    if extents:
        last = extents[-1]
        if (
            last.status is extent.status
            and last.offset + last.length == extent.offset
            and last.file is extent.file
            and (extent.file is None or last.file_offset + last.length == extent.file_offset)
            and not extent.status & Status.COMPRESSED
        ):
            extents[-1] = last._replace(length=last.length + extent.length)
            return
    extents.append(extent)
