"""compress: a filter that asks the node below to compress every write.

Requests are of whole clusters: a smaller write reads, changes and compresses all of its cluster.

QEMU's counterpart: ``block/filter-compress.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blkxact.block.driver_api import BlockDriver, Extent, OpenContext, Status, WriteFlags
from blkxact.errors import QmpError
from blkxact.storage.api import Buffer, Payload

if TYPE_CHECKING:
    from blkxact.block.node import Child


class CompressDriver(BlockDriver):
    """The driver ``compress`` over its child ``file``."""

    format_name = "compress"
    is_filter = True

    def __init__(self, context: OpenContext, children: Mapping[str, Child]) -> None:
        super().__init__(context, children)
        self.file = children["file"]
        below = self.file.node.driver
        self.cluster_size = below.cluster_size
        self.request_alignment = below.cluster_size or below.request_alignment

    @classmethod
    async def open(
        cls, context: OpenContext, options: Mapping[str, Any], children: Mapping[str, Child]
    ) -> CompressDriver:
        """Open; raises ``QmpError`` over a format that cannot compress."""
        del options
        below = children["file"].node.driver
        if not below.supports_compressed_writes:
            raise QmpError(
                f"Compression is not supported for underlying format: {below.format_name}"
            )
        return cls(context, children)

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the child."""
        return self.file.node.driver.length

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        return await self.file.pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write compressed."""
        await self.file.pwrite(offset, payload, flags | WriteFlags.COMPRESSED)

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
        """Leave it to the child."""
        return [Extent(offset, length, Status.NONE)]
