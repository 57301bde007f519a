"""Finding zeroes in what a plan calls data, before it is copied.

What the source's map calls data may read as zeroes all the same: a guest has written them. The
files are looked at, in a thread, and what is not zeroes is then copied from file to file as ever.

Invariant: segments cover what they covered before, in the same order.

QEMU's counterpart: ``convert_co_write`` in ``qemu-img.c``, which looks at what it has read.
"""

from __future__ import annotations

from collections.abc import Sequence

from blkxact.storage.api import Area
from blkxact.storage.scan import Run

from .copy_plan import Method, Segment


async def sift(segments: Sequence[Segment], unit: int) -> list[Segment]:
    """Return the segments with the zeroes in them split off.

    Only whole blocks of ``unit`` bytes, counted from the start of the disk, count as zeroes, and
    what a segment has of a block at its ends. Raises ``OSError`` for what cannot be read.
    """
    areas: list[Area] = [
        (segment.file, segment.file_offset, segment.length, -segment.offset % unit)
        for segment in segments
        if segment.file is not None and segment.method is Method.COPY
    ]
    if not areas:
        return list(segments)
    found = iter(await areas[0][0].zero_runs(areas, unit))
    sifted: list[Segment] = []
    for segment in segments:
        if segment.file is None or segment.method is not Method.COPY:
            sifted.append(segment)
        else:
            sifted += _apart(segment, next(found))
    return sifted


def _apart(segment: Segment, runs: Sequence[Run]) -> list[Segment]:
    if len(runs) == 1 and not runs[0][2]:
        return [segment]
    base = segment.offset
    return [
        Segment(base + start, stop - start, Method.ZERO)
        if zero
        else segment.part(base + start, base + stop)
        for start, stop, zero in runs
    ]
