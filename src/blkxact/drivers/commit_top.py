"""commit_top: a filter above what is being committed, so that the layers below can be written.

Its parents read through it. It needs nothing of the layer below and lets others do anything there:
while a commit writes into the base, the layers between do not read consistently, and only the
commit knows that what is seen from above does.

QEMU's counterpart: ``bdrv_commit_top`` in ``block/commit.c``.
"""

from __future__ import annotations

import errno

from blkxact.block.types import ChildRole, Permission, WriteFlags
from blkxact.errors import os_error
from blkxact.storage.api import Payload

from .filter import FilterDriver


class CommitTopDriver(FilterDriver):
    """The filter of a commit, above its child ``backing``."""

    format_name = "commit_top"
    filtered_child = "backing"

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Need nothing and share everything."""
        del child, role, perm, shared
        return Permission.NONE, Permission.ALL

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Refuse: nobody writes to what is being committed."""
        del offset, payload, flags
        raise os_error(errno.ENOTSUP)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Refuse as ``pwrite`` does."""
        del offset, length, flags
        raise os_error(errno.ENOTSUP)
