"""What can be read and written of one file without waiting for a disk.

The event loop serves what the page cache holds; the rest is left to a thread. Linux says which is
which: a read with ``RWF_NOWAIT`` returns what is in memory, stops short of what is not, and has the
system fetch that meanwhile. There are three kinds of file:

* On tmpfs and ramfs everything is in memory.
* Local file systems and block devices (ext4, XFS, btrfs) know ``RWF_NOWAIT`` for reads.
* Others (FUSE, NFS) do not: nothing of theirs is done on the loop.

A buffered write goes into the cache. It reads from the disk only where it fills a part of a page
that is not cached, so the pages at both ends are looked at first. XFS and btrfs know ``RWF_NOWAIT``
for writes, too; on ext4 a write may still wait for the journal, or while too many pages are dirty.

QEMU hands every request to a thread (``block/file-posix.c``).
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Final

from .libc import is_in_memory

PAGE: Final = mmap.PAGESIZE
_NOWAIT: Final = os.RWF_NOWAIT


def tells_what_is_cached(fd: int) -> bool:
    """Return whether the file system knows ``RWF_NOWAIT`` for reads: it is local, on a disk."""
    try:
        os.preadv(fd, (bytearray(1),), 0, _NOWAIT)
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


class PageCache:
    """The cached part of the file behind ``fd``. Errors other than "it would wait" are raised."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.in_memory = False
        """The file system has no disk."""
        self.may_serve = True
        """The file system says what is cached, or has no disk."""
        self._asks_writes = True
        """Writes ask not to wait, as long as the file system has not refused that."""
        self._find_out()

    def _find_out(self) -> None:
        if not tells_what_is_cached(self._fd):
            self.in_memory = self.may_serve = is_in_memory(self._fd)

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Return what of the range is at hand: its beginning, often all of it, or nothing.

        Where the file ends the data does, too.
        """
        if self.in_memory:
            return os.pread(self._fd, length, offset)
        if not self.may_serve:
            return b""
        data = bytearray(length)
        try:
            done = os.preadv(self._fd, (data,), offset, _NOWAIT)
        except BlockingIOError:
            return b""
        if done < length:
            del data[done:]
        return data

    def holds(self, offset: int, length: int) -> bool:
        """Return whether the whole range is at hand; an error is left to whoever reads it."""
        try:
            return self.in_memory or len(self.read(offset, length)) == length
        except OSError:
            return False

    def may_write(self, offset: int, length: int) -> bool:
        """Return whether a write can do without the disk: the rest of its pages is at hand."""
        if self.in_memory or not self.may_serve:
            return self.may_serve
        end = offset + length
        return (offset % PAGE == 0 or self._has_page(offset)) and (
            end % PAGE == 0 or self._has_page(end)
        )

    def _has_page(self, offset: int) -> bool:
        try:
            os.preadv(self._fd, (bytearray(1),), offset, _NOWAIT)
        except BlockingIOError:
            return False
        return True

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Write as much as can be without waiting; return how many bytes, from the beginning."""
        if self._asks_writes and self.may_serve and not self.in_memory:
            try:
                return os.pwritev(self._fd, (data,), offset, _NOWAIT)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            self._asks_writes = False
        if not self.may_write(offset, len(data)):
            return 0
        return os.pwrite(self._fd, data, offset)
