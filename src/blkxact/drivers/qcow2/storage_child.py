"""A file of the storage in the place of a ``Child``: for images outside of any block graph.

Creating an image, checking it and telling about it need no node; they use this.
"""

from __future__ import annotations

from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.storage.api import Buffer, Payload, Runs, StorageFile, write_payload


class StorageChild:
    """Implements ``metadata_file.Child`` over one ``StorageFile``."""

    wants_events = False

    def __init__(self, file: StorageFile) -> None:
        self.file = file

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.file.size()

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read; beyond the end there are zeroes."""
        return await self.file.pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write; the file grows as needed."""
        del flags
        await write_payload(self.file, offset, payload)

    async def pwrite_runs(self, runs: Runs) -> None:
        """Write several payloads, in order."""
        for offset, payload in runs:
            await write_payload(self.file, offset, payload)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes."""
        may_unmap = bool(flags & WriteFlags.MAY_UNMAP)
        await self.file.write_zeroes(offset, length, may_unmap=may_unmap)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard."""
        await self.file.discard(offset, length)

    async def flush(self) -> None:
        """Make everything durable."""
        await self.file.flush()

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize; ``falloc`` and ``full`` allocate what is added."""
        old = self.length
        await self.file.truncate(length)
        if prealloc in (PreallocMode.FALLOC, PreallocMode.FULL) and length > old:
            await self.file.write_zeroes(old, length - old)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Map; every byte lies in the file where it lies."""
        return [
            Extent(
                start,
                count,
                Status.DATA if is_data else Status.ZERO,
                self.file,
                start,
            )
            for start, count, is_data in await self.file.map(offset, length)
        ]

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Nobody listens."""
