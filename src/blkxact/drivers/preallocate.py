"""preallocate: a filter that lets the file below grow in large steps.

A write past the end of the file allocates ``prealloc-size`` bytes more than it needs. What was
allocated but not written is cut off when the node is closed, or can no longer be written.

Invariants:

* The length shown is the end of the data, whatever the file has beyond that.
* What is allocated ahead begins where no request under way writes: it destroys nothing.
* As long as the file has a tail to be cut off, the filter keeps the permissions to do so and shares
  them with nobody. (QEMU cuts it off when the last writing parent goes.)

QEMU's counterpart: ``block/preallocate.c``; ``qapi/block-core.json`` (BlockdevOptionsPreallocate).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from blkxact.block.open_context import OpenContext
from blkxact.block.types import SECTOR, ChildRole, Permission, WriteFlags
from blkxact.enums import PreallocMode
from blkxact.errors import QmpError
from blkxact.storage.api import Payload

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsPreallocate

_RESIZES = Permission.WRITE | Permission.RESIZE


class PreallocateDriver(FilterDriver):
    """The driver ``preallocate`` over ``file``."""

    format_name = "preallocate"
    filename = ""
    passes_flushes_on = True
    reopenable = frozenset({"prealloc-size", "prealloc-align"})

    def __init__(
        self, context: OpenContext, children: Mapping[str, Child], size: int, align: int
    ) -> None:
        self._data_end: int | None = None
        """End of all writes; None while others may change the file."""
        self._file_end = 0
        self._zero_start = 0
        """From here to ``_file_end`` the file is known to read as zeroes."""
        self._growing = asyncio.Lock()
        self._size, self._align = size, align
        super().__init__(context, children)

    @classmethod
    async def open(
        cls,
        context: OpenContext,
        options: BlockdevOptionsPreallocate,
        children: Mapping[str, Child],
    ) -> PreallocateDriver:
        """Open; raises ``QmpError`` for an alignment that the file does not have."""
        _check_align(options.prealloc_align, children["file"])
        return cls(context, children, options.prealloc_size, options.prealloc_align)

    async def close(self) -> None:
        """Cut off what was allocated but not written."""
        await self._drop_tail()

    async def deactivate_write(self) -> None:
        """Cut off what was allocated but not written; others may change the file from now on."""
        await self._drop_tail()
        self._data_end = None

    def prepare_reopen(
        self, context: OpenContext, options: BlockdevOptionsPreallocate
    ) -> Callable[[], None]:
        """Check the alignment."""
        _check_align(options.prealloc_align, self.file)
        take = super().prepare_reopen(context, options)

        def take_sizes() -> None:
            take()
            self._size, self._align = options.prealloc_size, options.prealloc_align

        return take_sizes

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return the masks: nobody else resizes the file while this filter does."""
        perm, shared = super().child_permissions(child, role, perm, shared)
        if self._has_tail:
            perm |= _RESIZES
        if _RESIZES in perm:
            return perm, shared & ~_RESIZES
        self._data_end = None
        return perm, shared

    @property
    def _has_tail(self) -> bool:
        return self._data_end is not None and self._data_end < self._file_end

    @property
    def length(self) -> int:  # type: ignore[override]
        """End of the data."""
        return self._below if self._data_end is None else self._data_end

    @property
    def _below(self) -> int:
        return self.file.node.driver.length

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write, after allocating."""
        await self._make_room(offset, len(payload), zeroes=False)
        await super().pwrite(offset, payload, flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes, unless allocating did so already."""
        plain = not flags & ~WriteFlags.NO_FALLBACK
        if not await self._make_room(offset, length, zeroes=plain):
            await super().pwrite_zeroes(offset, length, flags)

    async def _make_room(self, offset: int, length: int, *, zeroes: bool) -> bool:
        """Allocate for a write; return whether the range is zeroes now, if it is to be."""
        if _RESIZES not in self.file.perm:
            return False
        if self._data_end is None:
            self._data_end = self._file_end = self._zero_start = self._below
        end = offset + length
        previous = self._data_end
        if end <= previous:
            return False
        self._data_end = end
        if not zeroes:
            self._zero_start = end
        async with self._growing:
            if end <= self._file_end:
                return zeroes and offset >= self._zero_start
            return await self._allocate(offset, end, max(previous, self._file_end), zeroes=zeroes)

    async def _allocate(self, offset: int, end: int, free: int, *, zeroes: bool) -> bool:
        """Allocate from ``free`` on, where nobody has written, or with the zeroes asked for."""
        unit = self.request_alignment
        start = -(-(min(offset, free) if zeroes else free) // unit) * unit
        align = max(self._align, unit)
        stop = -(-(max(start, end) + self._size) // align) * align
        try:
            await self.file.pwrite_zeroes(start, stop - start, WriteFlags.NO_FALLBACK)
        except OSError:
            self._file_end = max(self._file_end, self._below)
            return False
        self._file_end = stop
        return zeroes and start <= offset

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize; what is allocated already may be all that is asked for."""
        if self._data_end is not None and length > self._data_end:
            if prealloc is PreallocMode.FALLOC and length <= self._file_end:
                self._data_end = length
                return
            if prealloc is not PreallocMode.FALLOC:
                await self._drop_tail()
        await super().truncate(length, prealloc=prealloc)
        self._data_end = self._file_end = self._zero_start = length

    async def _drop_tail(self) -> None:
        """Cut off the tail; raises ``OSError`` or ``QmpError`` with it still there."""
        if self._has_tail:
            assert self._data_end is not None
            await self.file.truncate(self._data_end)
            self._file_end = self._data_end


def _check_align(align: int, file: Child) -> None:
    if align % SECTOR:
        raise QmpError(f"prealloc-align parameter of preallocate filter is not aligned to {SECTOR}")
    unit = file.node.driver.request_alignment
    if align % unit:
        raise QmpError(
            "prealloc-align parameter of preallocate filter is not aligned to underlying node "
            f"request alignment ({unit})"
        )
