"""What of a tool's files would be lost if the power failed now.

Linux says how many pages of a file in the page cache are not written yet (the system call
cachestat, since 6.5). A file all of whose pages are so was never synced since it was written: after
a power failure it may be there with nothing in it. Files of which a part is written are left as
they are, and so are names, which the fault model of ``docs/testing.md`` takes for durable. On file
systems without a disk beneath them (tmpfs), and on older kernels, nothing is ever lost; ext4
writes a file by itself that is renamed over another.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

_CACHESTAT: Final = 451
"""The number of the system call, on all architectures."""
_libc = ctypes.CDLL(None, use_errno=True)


def lose_unsynced(directory: Path, settled: Collection[str] = ()) -> list[str]:
    """Empty the files below a directory that were never synced; return their names.

    ``settled`` are paths of files of which is known what is left of them.
    """
    lost = sorted(path for path in _files(directory) if is_unsynced(path))
    lost = [path for path in lost if str(path) not in settled]
    for path in lost:
        os.truncate(path, 0)
    return [path.name for path in lost]


def is_unsynced(path: Path) -> bool:
    """Return whether nothing of what a file holds is known to be on the disk."""
    found = _cached_pages(path)
    return found is not None and 0 < found[0] == found[1]


def is_synced(path: Path) -> bool:
    """Return whether all that a file holds is on the disk."""
    found = _cached_pages(path)
    return found is not None and found[1] == 0


def _cached_pages(path: Path) -> tuple[int, int] | None:
    """Return the pages that are cached and those that are still to be written, if Linux says."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = ctypes.create_string_buffer(40)
        if _libc.syscall(_CACHESTAT, fd, struct.pack("QQ", 0, 0), found, 0) != 0:
            return None
        cached, dirty, writing, _, _ = struct.unpack("5Q", found.raw)
        return cached, dirty + writing
    finally:
        os.close(fd)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
