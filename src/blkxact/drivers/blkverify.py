"""blkverify: a filter over two images that must agree, to test the driver of one of them.

Requests go to ``test`` and to ``raw``, which is known to be right. When they differ, the process
ends with status 1, as QEMU's does: there is nothing that it could go on with.

QEMU's counterpart: ``block/blkverify.c``; ``qapi/block-core.json`` (BlockdevOptionsBlkverify).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from blkxact.block.driver_api import BlockDriver
from blkxact.block.node_filename import short_filename
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Status, WriteFlags
from blkxact.errors import QmpError
from blkxact.storage.api import Buffer, Payload, payload_bytes

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsBlkverify

T = TypeVar("T")

_log = logging.getLogger(__name__)


class BlkverifyDriver(BlockDriver):
    """The driver ``blkverify`` over ``test`` and ``raw``."""

    format_name = "blkverify"
    is_filter = True
    is_protocol = True
    sees_reads = True

    def __init__(self, context: OpenContext, children: Mapping[str, Child]) -> None:
        super().__init__(context, children)
        self.raw = children["raw"]
        self.test = children["test"]

    @property
    def filename(self) -> str:  # type: ignore[override]
        """``blkverify:RAW:TEST`` where both have names."""
        names = [short_filename(child.node) for child in (self.raw, self.test)]
        return ":".join(("blkverify", *names)) if all(names) else ""

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the two children; that of data is the one under test."""
        del options
        return {"raw": ChildRole.FILTERED | ChildRole.PRIMARY, "test": ChildRole.DATA}

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that ``blkverify:RAW:TEST`` stands for; raises ``QmpError``."""
        raw, colon, test = filename.removeprefix("blkverify:").partition(":")
        if not colon:
            raise QmpError("blkverify requires raw copy and original image path")
        names = {"raw": raw, "test": test}
        images = {child: {"file": {"filename": name}} for child, name in names.items()}
        return {"driver": "blkverify", **images}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsBlkverify, children: Mapping[str, Child]
    ) -> BlkverifyDriver:
        """Open."""
        del options
        return cls(context, children)

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the image under test."""
        return self.test.length

    @property
    def cluster_size(self) -> int | None:  # type: ignore[override]
        """That of the raw image, the filtered child."""
        return self.raw.node.driver.cluster_size

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read both, and compare."""
        tested = self.test.pread(offset, length)
        data, right = await self._both(
            f"read offset={offset} bytes={length}", tested, self.raw.pread(offset, length)
        )
        if data != right:
            at = next(
                i for i, (one, other) in enumerate(zip(data, right, strict=True)) if one != other
            )
            self._end(
                f"read offset={offset} bytes={length} contents mismatch at offset {offset + at}"
            )
        return data

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write to both."""
        payload = await payload_bytes(payload)
        await self._both(
            f"write offset={offset} bytes={len(payload)}",
            self.test.pwrite(offset, payload, flags),
            self.raw.pwrite(offset, payload, flags),
        )

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Leave it to the node to write bytes."""
        del offset, length, flags
        raise OSError(errno.ENOTSUP, "")

    async def _both(self, request: str, tested: Awaitable[T], right: Awaitable[T]) -> tuple[T, T]:
        """Return what both requests return; raises ``OSError`` if both fail alike."""
        results = await asyncio.gather(tested, right, return_exceptions=True)
        codes = [_code(result) for result in results]
        if codes[0] != codes[1]:
            self._end(f"{request} return value mismatch {codes[0]} != {codes[1]}")
        if isinstance(results[0], BaseException):
            raise results[0]
        assert not isinstance(results[1], BaseException)
        return results[0], results[1]

    def _end(self, text: str) -> NoReturn:
        _log.error("blkverify: %s", text, extra={"bare": True})
        sys.exit(1)

    async def flush(self) -> None:
        """Flush the image under test; the other is of no importance."""
        await self.test.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Leave it to the child to know."""
        return [Extent(offset, length, Status.NONE)]


def _code(result: object) -> int:
    """Return what QEMU's request would return."""
    if not isinstance(result, BaseException):
        return 0
    if not isinstance(result, OSError):
        raise result
    return -(result.errno or errno.EIO)
