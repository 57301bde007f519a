"""How a range is to be copied: the source's extents turned into segments of whole clusters.

Invariants:

* Segments cover the range in order and meet at cluster boundaries; only the end of the disk may cut
  the last cluster short.
* A cluster that more than one kind of extent shares is read and written as bytes, so nothing of it
  is taken for zeroes or for unallocated that is not.
* A plan has the cuts of QEMU's block-copy: one where an extent ends, and one on each side of a
  shared cluster. ``parts_of_runs`` and ``merge_alike`` remove those that do not matter to the
  copying.

QEMU's counterpart: ``block/block-copy.c`` (BlockCopyMethod, block_copy_block_status).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from blkxact.storage.api import StorageFile

from .types import Extent, Status

_ALLOCATED, _ZERO, _DATA = int(Status.ALLOCATED), int(Status.ZERO), int(Status.DATA)


class Method(Enum):
    """What is done with a segment."""

    ZERO = "zero"
    """Make the target read as zeroes."""
    COPY = "copy"
    """Copy from the file that holds the bytes; they never come into Python."""
    READ = "read"
    """Read through the source node, write through the target node."""
    SKIP = "skip"
    """Not allocated in the source's own layer, and only that layer is wanted (sync=top)."""


class Segment(NamedTuple):
    """A run of clusters that are copied in one way."""

    offset: int
    length: int
    method: Method
    file: StorageFile | None = None
    file_offset: int = 0

    @property
    def end(self) -> int:
        """Return the first byte after the segment."""
        return self.offset + self.length

    def part(self, start: int, end: int) -> Segment:
        """Return the piece of this segment between two positions on the disk."""
        if start == self.offset and end == start + self.length:
            return self
        place = self.file_offset + start - self.offset
        return Segment(start, end - start, self.method, self.file, place)


def round_down(value: int, unit: int) -> int:
    """Return the largest multiple of ``unit`` that is not above ``value``."""
    return value - value % unit


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of ``unit`` that is not below ``value``."""
    return -(-value // unit) * unit


def method_of(extent: Extent, *, own_layer_only: bool) -> Method:
    """Return how an extent that fills its clusters alone is copied."""
    status = int(extent.status)  # plain numbers are ten times as fast as flags
    if own_layer_only and not status & _ALLOCATED:
        return Method.SKIP
    if status & _ZERO:
        return Method.ZERO
    if extent.file is not None and status & _DATA:
        return Method.COPY
    return Method.READ


_POSITION = itemgetter(0)


def plan(
    extents: Iterable[Extent],
    cluster_size: int,
    disk_length: int,
    *,
    own_layer_only: bool = False,
) -> list[Segment]:
    """Return the segments of a range whose extents are given in order, without gaps."""
    segments: list[Segment] = []
    end = -1
    for extent in extents:
        method = method_of(extent, own_layer_only=own_layer_only)
        start, length = extent.offset, extent.length
        if not (start | length) % cluster_size and (not segments or end == start):
            segments.append(Segment(start, length, method, extent.file, extent.file_offset))
            end = start + length
            continue
        for part in _whole_clusters(extent, method, cluster_size, disk_length):
            if part.end > end:
                segments.append(part.part(max(part.offset, end), part.end))
                end = part.end
    return segments


def merge_alike(segments: Iterable[Segment]) -> list[Segment]:
    """Return segments in order with neighbours that are copied in one way made one."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and _continues(merged[-1], segment):
            last = merged[-1]
            merged[-1] = last._replace(length=last.length + segment.length)
        else:
            merged.append(segment)
    return merged


def _continues(last: Segment, new: Segment) -> bool:
    if last.method is not new.method or last.end != new.offset:
        return False
    if last.method is not Method.COPY:
        return True
    return last.file is new.file and last.file_offset + last.length == new.file_offset


def parts_of_runs(runs: Sequence[tuple[int, int]], segments: Sequence[Segment]) -> list[Segment]:
    """Return the parts of the segments that are in the runs, merged; both are in order."""
    return merge_alike(_parts(runs, segments))


def _parts(runs: Sequence[tuple[int, int]], segments: Sequence[Segment]) -> Iterator[Segment]:
    at = max(bisect_right(segments, runs[0][0], key=_POSITION) - 1, 0)
    for offset, length in runs:
        end = offset + length
        for segment in islice(segments, at, None):
            start = segment[0]
            stop = start + segment[1]
            if start >= end:
                break
            if start >= offset and stop <= end:
                yield segment
            elif stop > offset:
                yield segment.part(max(start, offset), min(stop, end))
            if stop > end:  # the next run may be in it, too
                break
            at += 1


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return runs in order, those that meet as one."""
    result: list[tuple[int, int]] = []
    for offset, length in sorted(runs):
        if result and sum(result[-1]) == offset:
            result[-1] = result[-1][0], result[-1][1] + length
        else:
            result.append((offset, length))
    return result


def _whole_clusters(
    extent: Extent, method: Method, cluster_size: int, disk_length: int
) -> Iterator[Segment]:
    """Split an extent into the clusters it fills and those it shares.

    The cluster in which it starts, if it does not start with it, was covered for its predecessor.
    """
    start, end = extent.offset, extent.offset + extent.length
    first = round_up(start, cluster_size)
    last = end if end >= disk_length else round_down(end, cluster_size)
    cover = min(round_up(end, cluster_size), disk_length)
    if first >= last:
        yield _shared(round_down(start, cluster_size), cover)
        return
    whole = Segment(start, end - start, method, extent.file, extent.file_offset)
    yield whole.part(first, last)
    if last < end:
        yield _shared(last, cover)


def _shared(start: int, end: int) -> Segment:
    return Segment(start, end - start, Method.READ)
