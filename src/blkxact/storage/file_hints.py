"""Hints for the file system about a new file: how to lay it out.

A hint changes no byte that is read, and a file system that does not know it is no error.

QEMU's counterpart: BlockdevCreateOptionsFile, ``nocow`` and ``extent-size-hint``; the numbers are
those of ``linux/fs.h``.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import struct
from typing import NamedTuple

log = logging.getLogger(__name__)

DEFAULT_EXTENT_SIZE = 1 << 20
"""Keeps an image that is written in small pieces from being scattered over the disk."""

_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_NOCOW_FL = 0x00800000
_FS_IOC_FSGETXATTR, _FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_FS_XFLAG_EXTSIZE = 0x00000800
_FLAGS = struct.Struct("=l")
_FSXATTR = struct.Struct("=5I8x")
"""``fsx_xflags``, ``fsx_extsize`` in bytes, and three that are not ours."""


class FileHints(NamedTuple):
    """How a new file is to be laid out."""

    nocow: bool = False
    """Write in place also where the file system copies on write (btrfs)."""
    extent_size: int | None = None
    """Allocate in such pieces (XFS), in bytes; 0: as the file system likes. None: the default."""

    def give(self, fd: int) -> None:
        """Pass the hint; a size that was asked for and is not supported is logged."""
        if self.nocow:
            with contextlib.suppress(OSError):
                (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(_FLAGS.size)))
                fcntl.ioctl(fd, _FS_IOC_SETFLAGS, _FLAGS.pack(flags | _FS_NOCOW_FL))
        size = DEFAULT_EXTENT_SIZE if self.extent_size is None else self.extent_size
        try:
            found = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))
            wanted = _FSXATTR.pack(found[0] | _FS_XFLAG_EXTSIZE, size, *found[2:])
            fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, wanted)
        except OSError as error:
            if self.extent_size:
                log.warning("Failed to set extent size hint: %s", error.strerror)


NO_HINTS = FileHints()
