"""External data files: the disk's bytes in a file of their own, each at its own offset.

Guest and host offsets are the same, so there is nothing to allocate, and nothing to count. In
memory the data file begins one cluster later than it does on disk (``shift_in``): an offset of zero
stays free to mean that a cluster has no place. ``DataFile`` takes the cluster off again.

Invariants:

* An entry with a place leads to its own offset and is the disk's own; anything else is corrupt.
* No compressed clusters and no internal snapshots.
* With ``data-file-raw`` the file alone always reads as the disk does: zeroes go there too.

QEMU's counterpart: ``has_data_file`` and ``data_file_is_raw`` in ``block/qcow2*.c``; specification,
"Header", incompatible feature bit 2 and autoclear feature bit 1.
"""

from __future__ import annotations

from array import array
from collections.abc import Coroutine, Mapping
from typing import Any

from blkxact.block.types import Extent, WriteFlags
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.storage.api import Buffer, Payload, Runs

from .layout import COMPRESSED, COPIED, OFFSET_MASK
from .metadata_file import Child, MetadataFile

NAME = "data-file"
"""The child's name."""


async def shift_in(file: MetadataFile, entries: array[int], offset: int, table: int) -> None:
    """Turn entries as they are on disk into those in memory.

    ``offset`` is where the first one's cluster lies on the disk, ``table`` where their L2 table
    does. Raises ``OSError(EIO)``, and marks the image, if an entry cannot be.
    """
    size = file.header.cluster_size
    per_table = size >> file.header.l2_entry_bits
    for at, entry in enumerate(entries):
        if entry & COMPRESSED:
            index = (offset // size + at) % per_table
            raise await file.corruption(
                "Compressed cluster entry found in image with external data file"
                f" (L2 offset: {table:#x}, L2 index: {index:#x})"
            )
        if entry & (OFFSET_MASK | COPIED):
            expected = offset + at * size
            if entry & OFFSET_MASK != expected:
                raise await file.corruption(
                    f"External data file host cluster offset {entry & OFFSET_MASK:#x} does not "
                    f"match guest cluster offset: {expected:#x}, "
                    f"L2 index: {(expected // size) % per_table:#x})"
                )
            entries[at] = entry + size


def shift_out(entries: array[int], cluster_size: int) -> array[int]:
    """Return entries in memory as they are on disk."""
    return array("Q", [e - cluster_size if e & OFFSET_MASK else e for e in entries])


class DataFile:
    """The ``data-file`` child, its bytes ``shift`` further; implements ``metadata_file.Child``."""

    def __init__(self, children: Mapping[str, Child], shift: int) -> None:
        self._children = children
        self._shift = shift

    @property
    def child(self) -> Child:
        """The edge itself."""
        return self._children[NAME]

    @property
    def length(self) -> int:
        """Bytes of the file, and what it is shifted."""
        return self.child.length + self._shift

    @property
    def wants_events(self) -> bool:
        """Whether ``debug_event`` would reach anyone."""
        return self.child.wants_events

    def pread(self, offset: int, length: int) -> Coroutine[Any, Any, Buffer]:
        """Read."""
        return self.child.pread(offset - self._shift, length)

    def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> Coroutine[Any, Any, None]:
        """Write."""
        return self.child.pwrite(offset - self._shift, payload, flags)

    def pwrite_runs(self, runs: Runs) -> Coroutine[Any, Any, None]:
        """Write several payloads."""
        return self.child.pwrite_runs([(offset - self._shift, data) for offset, data in runs])

    def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> Coroutine[Any, Any, None]:
        """Write zeroes."""
        return self.child.pwrite_zeroes(offset - self._shift, length, flags)

    def pdiscard(self, offset: int, length: int) -> Coroutine[Any, Any, None]:
        """Discard."""
        return self.child.pdiscard(offset - self._shift, length)

    def flush(self) -> Coroutine[Any, Any, None]:
        """Make everything durable."""
        return self.child.flush()

    def truncate(
        self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF
    ) -> Coroutine[Any, Any, None]:
        """Resize."""
        return self.child.truncate(length - self._shift, prealloc=prealloc)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Map; an extent's place in the host's file is the true one."""
        extents = await self.child.block_status(offset - self._shift, length)
        return [extent._replace(offset=extent.offset + self._shift) for extent in extents]

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Report a BlkdebugEvent."""
        await self.child.debug_event(event)
