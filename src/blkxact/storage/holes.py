"""Holes of a file of the host: which ranges are data, and making ranges read as zeroes.

The functions block; the caller chooses the thread.

QEMU's counterpart: ``block/file-posix.c`` (find_allocation, handle_aiocb_write_zeroes).
"""

from __future__ import annotations

import errno
import os
import stat

from .copy_range import write_all
from .libc import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, try_fallocate

ZERO_PIECE = 1 << 20
"""Bytes of zeroes written by one call where ``fallocate`` cannot serve."""


def length_of(fd: int) -> int:
    """Return the length of a file or of a block device, whose ``st_size`` is 0."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)


def zero(fd: int, offset: int, length: int, may_unmap: bool) -> None:
    """Zero a range by the cheapest means that the file system has."""
    if length == 0:
        return
    end = offset + length
    if may_unmap and try_fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length):
        if length_of(fd) < end:
            os.ftruncate(fd, end)
        return
    if try_fallocate(fd, ZERO_RANGE, offset, length):
        return
    # tmpfs has no ZERO_RANGE, but a hole that is then allocated is as good.
    hole = try_fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
    if hole and try_fallocate(fd, 0, offset, length):
        return
    zeroes = memoryview(bytes(min(length, ZERO_PIECE)))
    for position in range(offset, end, ZERO_PIECE):
        write_all(fd, zeroes[: end - position], position)


def map_file(fd: int, offset: int, length: int) -> tuple[list[tuple[int, int, bool]], range]:
    """Return the runs, and the last data that was met, to its end beyond the range.

    To look for the end of data may take long (tmpfs walks through its pages), so it is worth to
    know it.
    """
    end = offset + length
    known = range(0)
    file_end = length_of(fd)
    runs: list[tuple[int, int, bool]] = []
    position = offset
    while position < min(end, file_end):
        data = _seek(fd, position, os.SEEK_DATA, file_end)
        if data > position:
            stop = min(data, end)
            runs.append((position, stop - position, False))
        else:
            hole = _seek(fd, position, os.SEEK_HOLE, file_end)
            stop = min(hole, end)
            if stop <= position:  # the file shrank meanwhile
                break
            known = range(position, hole)
            runs.append((position, stop - position, True))
        position = stop
    if position < end:
        _append_hole(runs, position, end - position)
    return runs, known


def _append_hole(runs: list[tuple[int, int, bool]], offset: int, length: int) -> None:
    if runs and not runs[-1][2]:
        offset, length = runs[-1][0], runs[-1][1] + length
        runs.pop()
    runs.append((offset, length, False))


def _seek(fd: int, offset: int, whence: int, file_end: int) -> int:
    """Find the next data or hole; a file system without SEEK_DATA has data everywhere."""
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data up to the end
            return file_end
        if error.errno == errno.EINVAL:
            return offset if whence == os.SEEK_DATA else file_end
        raise
