"""mirror_top: the filter above the source of a mirror.

Its parents keep their permissions, while the job decides what they need of the source. In copy mode
``write-blocking`` it also writes what they write to the target.

QEMU's counterpart: ``bdrv_mirror_top`` in ``block/mirror.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Permission, WriteFlags
from blkxact.drivers.filter import FilterDriver
from blkxact.storage.api import Payload, payload_slice

from .copying import MirrorCopy

if TYPE_CHECKING:
    from blkxact.block.child import Child


class Mirror(Protocol):
    """What the filter needs of the job."""

    copy: MirrorCopy

    @property
    def copies_writes(self) -> bool:
        """Whether a write has to reach the target before it completes."""


class MirrorTopDriver(FilterDriver):
    """The filter of a mirror, above its child ``backing``.

    ``into_base``: the target is in the chain of the source (active commit).
    """

    format_name = "mirror_top"
    filtered_child = "backing"
    supports_fua = False

    def __init__(
        self, context: OpenContext, children: Mapping[str, Child], *, into_base: bool = False
    ) -> None:
        super().__init__(context, children)
        self.into_base = into_base
        self.mirror: Mirror | None = None
        """The job, from its beginning until its end."""
        self.stopped = False
        """The filter is about to go: its parents are stopped and it needs nothing."""

    @property
    def filename(self) -> str:  # type: ignore[override]
        """The name of the child."""
        return self.file.node.filename

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return what the parents need and share, unless the filter is about to go."""
        if self.stopped:
            return Permission.NONE, Permission.ALL
        perm, shared = super().child_permissions(child, role, perm, shared)
        if self.into_base:
            # Nobody shares CONSISTENT_READ above the base, and WRITE is blocked for a node if it
            # is blocked for the node above it.
            perm &= ~Permission.CONSISTENT_READ
            shared |= Permission.WRITE
        return perm, shared

    def _copy_for_writes(self) -> MirrorCopy | None:
        """Return what writes to the target; None if writes reach the source alone."""
        mirror = self.mirror
        return mirror.copy if mirror is not None and mirror.copies_writes else None

    async def _write_source(self, write: Callable[[], Awaitable[None]]) -> None:
        """Pass a write to the source alone, whose bitmaps record it."""
        if self.mirror is None:
            await write()
        else:
            with self.mirror.copy.recording():
                await write()

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write."""
        write = partial(super().pwrite, offset, payload, flags)
        copy = self._copy_for_writes()
        if copy is None:
            await self._write_source(write)
            return

        async def write_target(start: int, length: int) -> None:
            first = start - offset
            part = payload_slice(payload, first, first + length)
            await copy.write(start, part, flags & ~WriteFlags.UNCHANGED)

        await copy.write_both(offset, len(payload), write, write_target)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes."""
        write = partial(super().pwrite_zeroes, offset, length, flags)
        copy = self._copy_for_writes()
        if copy is None:
            await self._write_source(write)
            return

        async def write_target(start: int, count: int) -> None:
            kept = flags & ~(WriteFlags.UNCHANGED | WriteFlags.NO_FALLBACK)
            await copy.write_zeroes(start, count, kept)

        await copy.write_both(offset, length, write, write_target)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard; then the target gets what the source reads as."""
        write = partial(super().pdiscard, offset, length)
        copy = self._copy_for_writes()
        if copy is None:
            await self._write_source(write)
        else:
            await copy.write_both(offset, length, write, None)
