"""Several disks concatenated into one.

QEMU's counterpart: ``ImgConvertState`` in ``qemu-img.c`` (``src_sectors``, ``src_cur``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import backing_chain_next
from blkxact.block.types import SECTOR, Extent, Status
from blkxact.errors import QmpError, strerror


class JoinedDisks:
    """Reads ``sources``; ``salvage``: what cannot be read is zeroes, and ``warn`` is called.

    ``own_layer_only``: what lies below the own layer of a source does not count as allocated.
    """

    def __init__(
        self,
        sources: Sequence[BlockBackend],
        *,
        own_layer_only: bool,
        salvage: bool,
        warn: Callable[[str], object],
    ) -> None:
        self._sources = sources
        self._own_layer_only = own_layer_only
        self._salvage = salvage
        self._warn = warn
        self.length = sum(source.length for source in sources)

    async def extents(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of a range; raises ``QmpError``."""
        extents: list[Extent] = []
        for source, base, start, stop in self._parts(offset, length):
            found = await self._source_extents(source, start, stop - start)
            extents += (
                [extent._replace(offset=base + extent.offset) for extent in found]
                if base
                else found
            )
        return extents

    async def read(self, offset: int, length: int) -> bytes:
        """Return bytes; raises ``QmpError``."""
        parts = [
            await self._read_source(source, start, stop - start)
            for source, _, start, stop in self._parts(offset, length)
        ]
        return b"".join(parts)

    def _parts(self, offset: int, length: int) -> Iterator[tuple[BlockBackend, int, int, int]]:
        """Yield the source, where it begins, and ``start`` and ``stop`` in it."""
        base = 0
        for source in self._sources:
            start, stop = max(offset, base), min(offset + length, base + source.length)
            if start < stop:
                yield source, base, start - base, stop - base
            base += source.length

    async def _source_extents(self, source: BlockBackend, offset: int, size: int) -> list[Extent]:
        node = source.node
        assert node is not None
        below = backing_chain_next(node) if self._own_layer_only else None
        try:
            return await source.block_status(offset, size, base=below)
        except OSError as error:
            text = f"error while reading block status at offset {offset}: {strerror(error)}"
            if not self._salvage:
                raise QmpError(text) from error
            self._warn(text)
            return [Extent(offset, size, Status.DATA | Status.ALLOCATED)]

    async def _read_source(self, source: BlockBackend, offset: int, length: int) -> bytes:
        try:
            return bytes(await source.pread(offset, length))
        except OSError as error:
            if not self._salvage:
                raise QmpError(
                    f"error while reading at byte {offset}: {strerror(error)}"
                ) from error
        return b"".join(
            [
                await self._salvage_sector(source, at)
                for at in range(offset, offset + length, SECTOR)
            ]
        )

    async def _salvage_sector(self, source: BlockBackend, offset: int) -> bytes:
        try:
            return bytes(await source.pread(offset, SECTOR))
        except OSError as error:
            self._warn(f"error while reading offset {offset}: {strerror(error)}")
            return bytes(SECTOR)
