"""Calls of the C library that Python's ``os`` lacks.

These are ``fallocate``, ``fstatfs``, ``sync_file_range``, ``prctl``, ``malloc_trim``, ``mallopt``.
``ctypes.CDLL`` lets go of the interpreter lock during the call, so they may run in a thread.

``ctypes`` is loaded by the first call: it takes 2 ms, and an image tool on a disk may do without.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from blkxact.errors import os_error

if TYPE_CHECKING:
    import ctypes

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
"""Errors that mean "not on this file system", as opposed to a failure."""

_SYNC_FILE_RANGE_WRITE = 2


@cache
def _libc() -> ctypes.CDLL:
    """Return the C library."""
    import ctypes  # noqa: PLC0415 - see above

    return ctypes.CDLL(None, use_errno=True)


def _optional(name: str) -> Callable[..., int] | None:
    """Return a function that not every C library has."""
    return getattr(_libc(), name, None)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call ``fallocate``; raises ``OSError``."""
    from ctypes import c_int64, get_errno  # noqa: PLC0415 - see above

    call = _optional("fallocate64") or _libc().fallocate
    while call(fd, mode, c_int64(offset), c_int64(length)) != 0:
        number = get_errno()
        if number != errno.EINTR:
            raise os_error(number)


def try_fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """Call ``fallocate``; return False where the file system cannot do it."""
    try:
        fallocate(fd, mode, offset, length)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def start_writeback(fd: int) -> None:
    """Let the system begin to write what a file has in the page cache; it may block meanwhile.

    A hint: nothing is durable afterwards, and an error is left for ``fdatasync`` to report.
    """
    from ctypes import c_int64  # noqa: PLC0415 - see above

    if (call := _optional("sync_file_range")) is not None:
        call(fd, c_int64(0), c_int64(0), _SYNC_FILE_RANGE_WRITE)


_STATFS_SIZE = 256
"""Room for a ``struct statfs``, whose first member is the type, on all architectures."""
_IN_MEMORY = frozenset({0x01021994, 0x858458F6})
"""Types of tmpfs and ramfs."""


def is_in_memory(fd: int) -> bool:
    """Return whether the file system of ``fd`` keeps everything in memory."""
    import ctypes  # noqa: PLC0415 - see above

    status = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc().fstatfs(fd, status) != 0:
        return False
    return ctypes.c_ulong.from_buffer(status).value in _IN_MEMORY


_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_parent(signal_number: int, parent: int) -> None:
    """Let the system send this process a signal when the thread that started it is gone.

    ``parent`` is the process of that thread: if it is gone already, the signal is sent at once.
    """
    _libc().prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def set_process_name(name: bytes) -> None:
    """Set what ``ps`` and ``top`` call this process, at most 15 bytes."""
    _libc().prctl(_PR_SET_NAME, name)


_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK = 4 << 20
"""Bytes. To map a block and fault its pages in takes as long as to read it from the page cache, so
reads of 4 MiB are at half their rate then; requests of 1 MiB and less are not touched."""


def map_large_blocks() -> None:
    """Let each large block be mapped by itself, so that it is returned once it is freed."""
    if (call := _optional("mallopt")) is not None:
        call(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def give_memory_back() -> None:
    """Return to the system what ``free`` has kept for later."""
    if (call := _optional("malloc_trim")) is not None:  # glibc's; others do so themselves
        call(0)
