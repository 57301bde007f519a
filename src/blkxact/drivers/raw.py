"""raw: the bytes of the child as they are, all of them or a piece (``offset``, ``size``).

Invariants:

* Without ``offset`` and ``size`` it is like a filter; with them no request leaves the piece.
* Where the format was probed and found to be raw, a guest may not write the mark of another format
  into the first sector: the next start would take the image for that format and follow the backing
  file that the guest has written into its header.

QEMU's counterpart: ``block/raw-format.c``; ``qapi/block-core.json`` (BlockdevOptionsRaw).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Permission, WriteFlags
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer, FileRange, Payload, Runs

from .probe import PROBE_SIZE, probe_format

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsRaw

MAX_OFFSET = 2**63 - 1


class RawDriver(BlockDriver):
    """The driver ``raw`` over its child ``file``."""

    format_name = "raw"
    opens_plain_names = True
    strong_options = frozenset({"offset", "size"})
    reopenable = strong_options
    resettable = strong_options

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        *,
        offset: int = 0,
        size: int | None = None,
        probed: bool = False,
    ) -> None:
        super().__init__(context, children)
        self.file = children["file"]
        self._opened_role = self.file.role
        self._take_piece(offset, size)
        self.probed = probed
        self.refresh_limits()

    def _take_piece(self, offset: int, size: int | None) -> None:
        self.offset = offset
        self.size = size
        self._whole = offset == 0 and size is None

    def prepare_reopen(
        self, context: OpenContext, options: BlockdevOptionsRaw
    ) -> Callable[[], None]:
        """Check that the piece lies inside the child."""
        offset = options.offset or 0
        size = options.size
        _check_piece(offset, size, self.file.length)
        take = super().prepare_reopen(context, options)
        role = self.child_roles(options)["file"]

        def take_piece() -> None:
            take()
            self._take_piece(offset, size)
            self.file.role = role

        return take_piece

    def refresh_limits(self) -> None:
        """Have the limits of the child."""
        below = self.file.node.driver
        # A probed image's first sector is written as a whole, so that it can be looked at.
        own = PROBE_SIZE if self.probed else 1
        self.own_limits = {"request-alignment": own}
        self.request_alignment = max(below.request_alignment, own)

    @property
    def cluster_size(self) -> int | None:  # type: ignore[override]
        """That of the child, which may be another than it was."""
        return self.file.node.driver.cluster_size

    @property
    def dirty_flag(self) -> bool | None:  # type: ignore[override]
        """That of the child."""
        return self.file.node.driver.dirty_flag

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the role of ``file``: filtered, unless only a piece of it is used."""
        piece = options.offset or options.size is not None
        role = ChildRole.DATA if piece else ChildRole.FILTERED
        return {"file": role | ChildRole.PRIMARY}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsRaw, children: Mapping[str, Child]
    ) -> RawDriver:
        """Open; raises ``QmpError`` for a piece that does not lie inside the child."""
        offset = options.offset or 0
        size = options.size
        _check_piece(offset, size, children["file"].length)
        return cls(context, children, offset=offset, size=size, probed=context.probed)

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the piece, as far as the child holds it."""
        if self._whole:
            return self.file.node.driver.length
        inside = max(0, self.file.node.driver.length - self.offset)
        return inside if self.size is None else min(self.size, inside)

    @property
    def supports_fua(self) -> bool:  # type: ignore[override]
        """Whether the child does."""
        return self.file.node.driver.supports_fua

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return the default, but ask for no more than the parents do: raw has no tables."""
        if child == "file":  # permissions do not follow a reopen with another piece, as in QEMU
            role = self._opened_role
        needed, allowed = super().child_permissions(child, role, perm, shared)
        change = Permission.WRITE | Permission.RESIZE
        return (needed & ~change) | (perm & change), allowed

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        if self.file.node.driver.has_debug_events:
            await self.file.debug_event(BlkdebugEvent.READ_AIO)
        return await self.file.pread(offset + self.offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write; EPERM for the mark of another format into an image probed as raw."""
        if self.probed and offset < PROBE_SIZE and len(payload):
            await _check_first_sector(payload)
        if self.size is not None:
            self._check_end(offset + len(payload), self.size)
        if self.file.node.driver.has_debug_events:
            await self.file.debug_event(BlkdebugEvent.WRITE_AIO)
        await self.file.pwrite(offset + self.offset, payload, flags)

    async def pwrite_runs(self, runs: Runs) -> None:
        """Pass the runs on together, unless each of them must be looked at."""
        if not self._whole or self.probed or self.file.node.driver.has_debug_events:
            await super().pwrite_runs(runs)
        else:
            await self.file.pwrite_runs(runs)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes."""
        if self.size is not None:
            self._check_end(offset + length, self.size)
        await self.file.pwrite_zeroes(offset + self.offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard."""
        await self.file.pdiscard(offset + self.offset, length)

    async def flush(self) -> None:
        """Flush the child."""
        await self.file.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return what the child says."""
        if self.file.role & ChildRole.FILTERED:
            return await self.file.node.layer_status((offset, length))
        shift = self.offset
        extents = await self.file.block_status(offset + shift, length)
        return [extent._replace(offset=extent.offset - shift, depth=0) for extent in extents]

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize the child; a piece with a ``size`` cannot be."""
        if self.size is not None:
            raise QmpError("Cannot resize fixed-size raw disks")
        if length > MAX_OFFSET - self.offset:
            raise QmpError("Disk size too large for the chosen offset")
        await self.file.truncate(length + self.offset, prealloc=prealloc)

    @staticmethod
    def _check_end(end: int, size: int) -> None:
        if end > size:
            raise os_error(errno.ENOSPC)


def _check_piece(offset: int, size: int | None, whole: int) -> None:
    for name, value in (("offset", offset), ("size", size or 0)):
        if value < 0:
            raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")
    if offset > whole:
        raise QmpError(
            f"Offset ({offset}) cannot be greater than size of the containing file ({whole})"
        )
    if size is None:
        return
    if whole - offset < size:
        raise QmpError(
            f"The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the "
            f" actual size of the containing file ({whole})"
        )
    if size % 512:
        raise QmpError("Specified size is not multiple of 512")


async def _check_first_sector(payload: Payload) -> None:
    if isinstance(payload, FileRange):
        start = await payload.file.pread(payload.offset, min(PROBE_SIZE, payload.length))
    else:
        start = memoryview(payload)[:PROBE_SIZE]
    if probe_format(start) != "raw":
        raise os_error(errno.EPERM)
