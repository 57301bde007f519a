"""Looking at what files hold without keeping it: which blocks are zero, and whether two are equal.

The functions block; the caller chooses the thread. They read into one small buffer again and again,
which stays in the processor's cache: so a scan costs half of a copy, and what is found to be data
can then be copied from file to file.

Measured, processor time for 512 MiB of data in the page cache (AMD EPYC, tmpfs): a copy by
``copy_file_range`` 209 ms; zeroes in units of 4 KiB 65 ms, in units of 64 KiB, of which mostly only
the beginning is read, 12 ms; differences 191 ms. Differences on ext4: 122 ms with buffers of 64
KiB, 102 of 256 KiB, 78 of 1 MiB, 83 of 2 MiB.

QEMU's counterparts: ``is_allocated_sectors`` and ``compare_buffers`` in ``qemu-img.c``, which look
at what was read in any case.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

CHUNK = 1 << 20
"""Bytes read at a time; more falls out of the processor's cache before it is looked at."""

PROBED_UNIT = 32 << 10
"""Where zeroes or differences come in units so large, a look at the beginning of each saves
reading the rest."""
PROBE = 512
"""Bytes of such a beginning."""

Run = tuple[int, int, bool]
"""Start, stop, and whether the bytes are zero."""
Area = tuple[int, int, int, int]
"""Descriptor, offset, length, length of the first block (0: it is as long as the others)."""
Pair = tuple[int, int, int, int, int]
"""Descriptor and offset, those of the other file, length."""
Bytes = bytes | bytearray


def zero_runs(data: Bytes, unit: int, first: int = 0, length: int | None = None) -> list[Run]:
    """Return the runs that cover ``data``, or ``length`` bytes of it.

    Only whole blocks of ``unit`` bytes count as zeroes, and shorter ones at the ends: that at the
    start has ``first`` bytes, 0 if it is as long as the others.
    """
    if length is None:
        length = len(data)
    if first:
        runs = zero_runs(data[:first], first)
        join_runs(runs, first, zero_runs(data[first:length], unit))
        return runs
    runs = []
    blank = bytes(unit)
    covered = 0
    # Most blocks of data do not begin with a zero: one look at all first bytes rules them out.
    first_bytes = data[:length:unit]
    number = first_bytes.find(0)
    if number < 0:
        return [(0, length, False)] if length else []
    while number >= 0:
        start = number * unit
        stop = min(start + unit, length)
        if data.startswith(blank if stop - start == unit else bytes(stop - start), start):
            if covered < start:
                runs.append((covered, start, False))
            if runs and runs[-1][2]:
                runs[-1] = runs[-1][0], stop, True
            else:
                runs.append((start, stop, True))
            covered = stop
        number = first_bytes.find(0, number + 1)
    if covered < length:
        runs.append((covered, length, False))
    return runs


def scan_zeroes(areas: Iterable[Area], unit: int) -> list[list[Run]]:
    """Return the runs of each area, counted from its start; raises ``OSError``."""
    buffer = bytearray(max(CHUNK // unit * unit, unit))
    view = memoryview(buffer)
    found = []
    for area in areas:
        fd, offset, length, first = area
        if unit >= PROBED_UNIT:
            found.append(_probed(area, unit, view))
            continue
        if length <= len(buffer) and not first:
            fill(fd, view[:length], offset)
            found.append(zero_runs(buffer, unit, 0, length))
            continue
        runs: list[Run] = []
        for start, stop in _chunks(length, len(buffer), min(first, length)):
            size = stop - start
            fill(fd, view[:size], offset + start)
            join_runs(runs, start, zero_runs(buffer, unit, 0, size))
        found.append(runs)
    return found


class _Beginnings:
    """The beginnings of blocks of an area, which are looked at in order.

    From the first on that is not in the page cache all is fetched in one go; to ask for what is
    there costs as much as the looks themselves.
    """

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._offset = offset
        self._length = length
        self._is_cached = True

    def read(self, start: int, stop: int) -> Bytes:
        """Return what a block of the area begins with; raises ``OSError``.

        That is less where the file ends. ``start`` and ``stop`` are counted from the area's start.
        """
        offset, size = self._offset + start, min(PROBE, stop - start)
        if self._is_cached:
            data = bytearray(size)
            try:
                if os.preadv(self._fd, (data,), offset, os.RWF_NOWAIT) == size:
                    return data
            except OSError:  # not there, or the file system does not say
                self._is_cached = False
                with suppress(OSError):
                    rest = self._length - start
                    os.posix_fadvise(self._fd, offset, rest, os.POSIX_FADV_WILLNEED)
        return os.pread(self._fd, size, offset)


def _probed(area: Area, unit: int, view: memoryview) -> list[Run]:
    """Return the runs of an area; a block whose beginning is not zero is not read to its end."""
    fd, offset, length, first = area
    beginnings = _Beginnings(fd, offset, length)
    runs: list[Run] = []
    for start, stop in _chunks(length, unit, min(first, length)):
        zero = not beginnings.read(start, stop).strip(b"\0")
        if zero:
            fill(fd, view[: stop - start], offset + start)
            zero = bytes(view[: stop - start]) == bytes(stop - start)
        if runs and runs[-1][2] == zero:
            runs[-1] = runs[-1][0], stop, zero
        else:
            runs.append((start, stop, zero))
    return runs


def different_runs(mine: Bytes, yours: Bytes, unit: int) -> list[Run]:
    """Return the blocks in which two buffers of one length differ, and if mine is zero there."""
    runs: list[Run] = []
    if mine == yours:
        return runs
    length = len(mine)
    # Most blocks that differ do so in their first byte.
    first_bytes = zip(mine[::unit], yours[::unit], strict=True)
    for start, (ours, theirs) in zip(range(0, length, unit), first_bytes, strict=True):
        stop = start + unit
        if ours == theirs and mine[start:stop] == yours[start:stop]:
            continue
        stop = min(stop, length)
        zero = not ours and mine.startswith(bytes(stop - start), start)
        _add(runs, start, stop, zero=zero)
    return runs


def scan_differences(pairs: Iterable[Pair], unit: int) -> list[list[Run]]:
    """Return the blocks of each pair that differ (``different_runs``); raises ``OSError``."""
    room = max(CHUNK // unit * unit, unit)
    mine, yours = bytearray(room), bytearray(room)
    views = memoryview(mine), memoryview(yours)
    found = []
    for fd, offset, other, other_offset, length in pairs:
        runs: list[Run] = []
        sides = _Beginnings(fd, offset, length), _Beginnings(other, other_offset, length)
        for start, stop in _chunks(length, room):
            if unit >= PROBED_UNIT and _differ_from_the_first(*sides, start, stop, unit):
                _add(runs, start, stop, zero=False)
                continue
            size = stop - start
            fill(fd, views[0][:size], offset + start)
            fill(other, views[1][:size], other_offset + start)
            if size == room:
                different = different_runs(mine, yours, unit)
            else:
                different = different_runs(mine[:size], yours[:size], unit)
            for first, end, zero in different:
                _add(runs, start + first, start + end, zero=zero)
        found.append(runs)
    return found


def _differ_from_the_first(
    mine: _Beginnings, yours: _Beginnings, start: int, stop: int, unit: int
) -> bool:
    """Return whether all blocks of a range differ in their beginnings; mine are not zero there."""
    for begin in range(start, stop, unit):
        end = min(begin + unit, stop)
        ours = mine.read(begin, end)
        # What is beyond the end of a file is zero.
        if not ours.strip(b"\0") or ours.rstrip(b"\0") == yours.read(begin, end).rstrip(b"\0"):
            return False
    return True


def _add(runs: list[Run], start: int, stop: int, *, zero: bool) -> None:
    if runs and runs[-1][1:] == (start, zero):
        start = runs.pop()[0]
    runs.append((start, stop, zero))


def fill(fd: int, view: memoryview, offset: int) -> None:
    """Read until ``view`` is full; beyond the end of the file it is zeroes. Raises ``OSError``."""
    done = os.preadv(fd, [view], offset)
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            view[done:] = bytes(len(view) - done)
            return
        done += got


def _chunks(length: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the ``(start, stop)`` of a range's parts; the first may be shorter."""
    if first:
        yield 0, first
    for start in range(first, length, size):
        yield start, min(start + size, length)


def join_runs(runs: list[Run], base: int, more: Sequence[Run]) -> None:
    """Add runs that were counted from ``base``; the first may go on with the last."""
    for start, stop, zero in more:
        if runs and runs[-1][2] == zero:
            runs[-1] = runs[-1][0], base + stop, zero
        else:
            runs.append((base + start, base + stop, zero))
