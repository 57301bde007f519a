"""The files of a case's emulator, and a lock that another program holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blkxact.block.types import Permission
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.errors import LockConflict
from blkxact.storage.locks import ImageLock
from blkxact.testing.volatile_files import VolatileStorage

from .durable import is_synced


class CaseStorage(VolatileStorage):
    """``store`` is the tool's directory: its files are really synced.

    The tool may sync them as well, so the kernel is asked what of them is durable (``durable``).
    """

    def __init__(self, descriptors: Descriptors, store: str, *, loses_power: bool) -> None:
        super().__init__(descriptors, loses_power=loses_power)
        self.descriptors: Final = descriptors
        self._store = store + "/"

    def is_really_synced(self, path: str) -> bool:
        """Return whether a file is the tool's."""
        return path.startswith(self._store)

    def is_safe(self, path: str) -> bool:
        """Return whether the tool has synced a file."""
        return self.is_really_synced(path) and is_synced(Path(path))


def hold_lock(path: str) -> int | None:
    """Hold an image's lock, as another program that writes to it; return the descriptor.

    None: the image is in use already, or is none.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    wanted = Permission.CONSISTENT_READ | Permission.WRITE
    try:
        ImageLock(fd, path).change(
            perm=int(wanted), shared=int(Permission.ALL & ~(Permission.WRITE | Permission.RESIZE))
        )
    except LockConflict:
        os.close(fd)
        return None
    return fd
