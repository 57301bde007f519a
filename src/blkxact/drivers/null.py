"""null-co and null-aio: a disk that forgets what is written and reads as zeroes.

They serve tests and benchmarks; ``latency-ns`` makes each request take its time. The two names
differ only in how QEMU waits.

QEMU's counterpart: ``block/null.c``; ``qapi/block-core.json`` (BlockdevOptionsNull).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import NULL_SIZE
from blkxact.qapi.limits import INT64_MAX
from blkxact.storage.api import Buffer, FileRange, Payload

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsNull


class NullDriver(BlockDriver):
    """The driver ``null-co``."""

    format_name = "null-co"
    is_protocol = True
    strong_options = frozenset({"size", "read-zeroes"})
    reopenable = frozenset()

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        *,
        length: int = NULL_SIZE,
        latency_ns: int = 0,
        read_zeroes: bool = False,
    ) -> None:
        super().__init__(context, children)
        self.length = length
        self.latency_ns = latency_ns
        self.read_zeroes = read_zeroes
        # As QEMU, which has no short name for a disk of another size.
        plain = length == NULL_SIZE and not read_zeroes
        self.filename = f"{self.format_name}://" if plain else ""

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that ``null-co://`` stands for; raises ``QmpError`` for others."""
        only = f"{cls.format_name}://"
        if filename != only:
            raise QmpError(f"The only allowed filename for this driver is '{only}'")
        return {"driver": cls.format_name}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsNull, children: Mapping[str, Child]
    ) -> NullDriver:
        """Open; raises ``QmpError`` for a negative size or latency."""
        if options.size < 0:
            raise QmpError("Parameter 'size' expects a non-negative number below 2^64")
        if options.latency_ns > INT64_MAX:
            raise QmpError("latency-ns is invalid")
        return cls(
            context,
            children,
            length=options.size,
            latency_ns=options.latency_ns,
            read_zeroes=options.read_zeroes,
        )

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return zeroes."""
        del offset
        await self._wait()
        return bytes(length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Forget the payload."""
        del offset, flags
        if isinstance(payload, FileRange):
            # The source's read must fail here if it would fail anywhere.
            await payload.file.pread(payload.offset, payload.length)
        await self._wait()

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Do nothing."""
        del offset, length, flags
        await self._wait()

    async def flush(self) -> None:
        """Do nothing."""
        await self._wait()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return zeroes, or else what is neither data nor zeroes, as QEMU does."""
        status = Status.ZERO | Status.ALLOCATED if self.read_zeroes else Status.NONE
        return [Extent(offset, length, status)]

    def allocated_size(self) -> int:
        """Return 0: nothing is stored."""
        return 0

    async def _wait(self) -> None:
        if self.latency_ns:
            await self.context.env.clock.sleep(self.latency_ns / 1e9)


class NullAioDriver(NullDriver):
    """The driver ``null-aio``."""

    format_name = "null-aio"
