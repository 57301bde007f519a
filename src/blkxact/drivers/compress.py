"""compress: a filter that asks the node below to compress every write.

Requests are of whole clusters: a smaller write reads, changes and compresses all of its cluster.

QEMU's counterpart: ``block/filter-compress.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from blkxact.block.open_context import OpenContext
from blkxact.block.types import WriteFlags
from blkxact.errors import QmpError
from blkxact.storage.api import Payload

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsCompress


class CompressDriver(FilterDriver):
    """The driver ``compress`` over its child ``file``."""

    format_name = "compress"
    filename = ""

    def refresh_limits(self) -> None:
        """Take whole clusters only."""
        super().refresh_limits()
        self.request_alignment = self.cluster_size or self.request_alignment
        self.own_limits = {"request-alignment": self.cluster_size or 1}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsCompress, children: Mapping[str, Child]
    ) -> CompressDriver:
        """Open; raises ``QmpError`` over a format that cannot compress."""
        del options
        below = children["file"].node.driver
        if not below.can_compress:
            raise QmpError(
                f"Compression is not supported for underlying format: {below.format_name}"
            )
        return cls(context, children)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write compressed."""
        await super().pwrite(offset, payload, flags | WriteFlags.COMPRESSED)
