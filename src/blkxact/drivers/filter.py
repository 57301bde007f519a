"""What filters have in common: every request goes on to the node below as it came.

A filter overrides what it does something about.

QEMU's counterpart: the filtered child of ``block/io.c`` (bdrv_filter_child).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Status, WriteFlags
from blkxact.enums import PreallocMode
from blkxact.storage.api import Buffer, Payload

if TYPE_CHECKING:
    from blkxact.block.child import Child


class FilterDriver(BlockDriver):
    """A driver over its child that changes nothing."""

    is_filter = True
    filtered_child: ClassVar[str] = "file"
    """The name of the child."""

    def __init__(self, context: OpenContext, children: Mapping[str, Child]) -> None:
        super().__init__(context, children)
        self.file = children[self.filtered_child]
        self.refresh_limits()

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the filtered child."""
        del options
        return {cls.filtered_child: ChildRole.FILTERED | ChildRole.PRIMARY}

    @classmethod
    async def open(
        cls, context: OpenContext, options: Any, children: Mapping[str, Child]
    ) -> FilterDriver:
        """Open a filter without options."""
        del options
        return cls(context, children)

    def refresh_limits(self) -> None:
        """Have the limits of the child."""
        self.request_alignment = self.file.node.driver.request_alignment

    @property
    def cluster_size(self) -> int | None:  # type: ignore[override]
        """That of the child, which may be another than it was."""
        return self.file.node.driver.cluster_size

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the child."""
        return self.file.node.driver.length

    @property
    def supports_compressed_writes(self) -> bool:
        """Whether the filter passes them on to a child that takes them."""
        return self.can_compress and self.file.node.driver.supports_compressed_writes

    @property
    def supports_fua(self) -> bool:  # type: ignore[override]
        """Whether the child does."""
        return self.file.node.driver.supports_fua

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        return await self.file.pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write."""
        await self.file.pwrite(offset, payload, flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes."""
        await self.file.pwrite_zeroes(offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard."""
        await self.file.pdiscard(offset, length)

    async def flush(self) -> None:
        """Flush the child."""
        await self.file.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Leave it to the child to know."""
        return [Extent(offset, length, Status.NONE)]

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize the child."""
        await self.file.truncate(length, prealloc=prealloc)
