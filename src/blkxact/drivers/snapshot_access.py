"""snapshot-access: the point in time that the copy-before-write filter below keeps, as a disk.

It can be exported or backed up like any other. Nothing can be written; a discard gives up a part of
the point in time for good (where the node has ``discard: unmap``), and frees it in the target.

Invariant: it needs no permissions and allows all, so guests go on writing through the filter.

QEMU's counterpart: ``block/snapshot-access.c``; ``qapi/block-core.json``.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Permission, SnapshotAccess, WriteFlags
from blkxact.errors import os_error
from blkxact.storage.api import Buffer, Payload

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsSnapshotAccess


class SnapshotAccessDriver(BlockDriver):
    """The driver ``snapshot-access`` over its child ``file``."""

    format_name = "snapshot-access"

    def __init__(self, context: OpenContext, children: Mapping[str, Child]) -> None:
        super().__init__(context, children)
        self.file = children["file"]

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the role of ``file``: it is not filtered, for its own bytes are others."""
        del options
        return {"file": ChildRole.DATA | ChildRole.PRIMARY}

    @classmethod
    async def open(
        cls,
        context: OpenContext,
        options: BlockdevOptionsSnapshotAccess,
        children: Mapping[str, Child],
    ) -> SnapshotAccessDriver:
        """Open; whether ``file`` keeps a point in time shows when it is read (ENOTSUP)."""
        del options
        return cls(context, children)

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the disk."""
        return self.file.node.driver.length

    @property
    def filename(self) -> str:  # type: ignore[override]
        """The disk's."""
        return self.file.node.filename

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return that nothing is needed: reads pass beside the disk's own requests."""
        del child, role, perm, shared
        return Permission.NONE, Permission.ALL

    @classmethod
    def permissions_to_open(cls, role: ChildRole) -> tuple[Permission, Permission]:
        """Return the same."""
        del role
        return Permission.NONE, Permission.ALL

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read; EACCES for what is not kept or no longer."""
        async with self._point_in_time() as point:
            return await point.pread(offset, length)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return the extents; EACCES if something of the range is not kept."""
        async with self._point_in_time() as point:
            return await point.block_status(offset, length)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give up whole clusters."""
        async with self._point_in_time() as point:
            await point.pdiscard(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Refuse."""
        del offset, payload, flags
        _not_supported()

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Refuse."""
        del offset, length, flags
        _not_supported()

    async def flush(self) -> None:
        """Do nothing: nothing was written."""

    @asynccontextmanager
    async def _point_in_time(self) -> AsyncIterator[SnapshotAccess]:
        """Yield what the filter keeps; the request counts as one of the filter's."""
        node = self.file.node
        point = node.driver.point_in_time
        if point is None:
            _not_supported()
        node.begin_request()
        try:
            yield point
        finally:
            node.end_request()


def _not_supported() -> NoReturn:
    raise os_error(errno.ENOTSUP)
