"""The image file as the metadata sees it: tables of big-endian numbers, events, barriers.

Invariants:

* ``barrier`` is where the order on stable storage matters: what was written before is durable when
  it returns, so that what is written after may refer to it.
* Corruption found in metadata makes the image unusable at once (``dead``); a writable one is also
  marked in its header, so that nobody writes to it before it was repaired.

QEMU's counterpart: ``qcow2_signal_corruption`` and the input and output of ``qcow2-cache.c``.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from array import array
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from blkxact.block.corruption import Corruption
from blkxact.block.types import Extent, WriteFlags
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer, Payload, Runs

from .layout import (
    INCOMPATIBLE_CORRUPT,
    Header,
    pack_header,
    parse_first_cluster,
    parse_header,
)

INCOMPATIBLE_AT = 72
"""Where the header holds the incompatible features."""
SWAP = sys.byteorder == "little"


class Child(Protocol):
    """What an image needs of the edge to its file; ``block.child.Child`` has it, and more."""

    @property
    def length(self) -> int:
        """Bytes of the file."""

    @property
    def wants_events(self) -> bool:
        """Whether ``debug_event`` would reach anyone."""

    def pread(self, offset: int, length: int) -> Coroutine[Any, Any, Buffer]:
        """Read; beyond the end there are zeroes."""

    def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = ...
    ) -> Coroutine[Any, Any, None]:
        """Write; the file grows as needed."""

    def pwrite_runs(self, runs: Runs) -> Coroutine[Any, Any, None]:
        """Write several payloads, in order."""

    def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = ...
    ) -> Coroutine[Any, Any, None]:
        """Write zeroes."""

    def pdiscard(self, offset: int, length: int) -> Coroutine[Any, Any, None]:
        """Discard."""

    def flush(self) -> Coroutine[Any, Any, None]:
        """Make everything durable."""

    def truncate(self, length: int, *, prealloc: PreallocMode = ...) -> Coroutine[Any, Any, None]:
        """Resize."""

    def block_status(self, offset: int, length: int) -> Coroutine[Any, Any, list[Extent]]:
        """Map."""

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Report a BlkdebugEvent."""


def table_from_bytes(data: Buffer) -> array[int]:
    """Return 64-bit numbers of a table as it lies on disk."""
    table = array("Q", bytes(data))
    if SWAP:
        table.byteswap()
    return table


def table_to_bytes(table: array[int]) -> bytes:
    """Return a table as it lies on disk."""
    if SWAP:
        table = table[:]
        table.byteswap()
    return table.tobytes()


class MetadataFile:
    """Reads and writes tables through the image's ``file`` child."""

    def __init__(
        self, children: Mapping[str, Child], header: Header, *, writable: bool = False
    ) -> None:
        self._children = children
        self.header = header
        self.writable = writable
        self.dead = False
        self.on_corruption: Callable[[Corruption], None] = lambda _: None
        """Called for the first corruption found, and for the first that is fatal."""
        self._signaled = False

    @property
    def child(self) -> Child:
        """The ``file`` child; a graph change may replace its node."""
        return self._children["file"]

    async def event(self, name: BlkdebugEvent) -> None:
        """Report a BlkdebugEvent to a blkdebug below."""
        child = self._children["file"]
        if child.wants_events:
            await child.debug_event(name)

    async def read_table(self, offset: int, entries: int) -> array[int]:
        """Read a table of 64-bit numbers."""
        return table_from_bytes(await self.child.pread(offset, entries * 8))

    async def write_table(self, offset: int, table: array[int]) -> None:
        """Write a table of 64-bit numbers."""
        await self.child.pwrite(offset, table_to_bytes(table))

    async def read_l2(self, offset: int, number: int) -> tuple[array[int], array[int]]:
        """Read L2 entries and, where these are extended, their bitmaps."""
        words = await self.read_table(offset, number << self.header.l2_entry_bits >> 3)
        if self.header.has_extended_l2:
            return words[0::2], words[1::2]
        return words, words[:0]

    async def write_l2(self, offset: int, entries: array[int], bitmaps: array[int]) -> None:
        """Write L2 entries as ``read_l2`` returns them."""
        words = entries
        if bitmaps:
            words = array("Q", bytes(16 * len(entries)))
            words[0::2], words[1::2] = entries, bitmaps
        await self.write_table(offset, words)

    async def barrier(self) -> None:
        """Return when everything written before is on stable storage."""
        data_file = self._children.get("data-file")
        if data_file is not None:
            await data_file.flush()
        await self.child.flush()

    async def write_header(self) -> None:
        """Write the first cluster again; raises ``OSError``: ``EINVAL`` if we could not read it."""
        packed = pack_header(self.header)
        try:
            parse_first_cluster(parse_header(packed), packed)
        except QmpError as error:
            raise os_error(errno.EINVAL) from error
        await self.child.pwrite(0, packed)

    async def write_refcount_table_position(self) -> None:
        """Make the header point at another refcount table, in one write."""
        header = self.header
        where = struct.pack(">QI", header.refcount_table_offset, header.refcount_table_clusters)
        await self.child.pwrite(48, where)

    async def write_l1_position(self) -> None:
        """Make the header point at another L1 table, in one write."""
        where = struct.pack(">IQ", self.header.l1_size, self.header.l1_table_offset)
        await self.child.pwrite(36, where)

    async def write_disk_position(self) -> None:
        """Write the size of the disk and where its L1 table is, in one write."""
        header = self.header
        where = struct.pack(
            ">QIIQ", header.size, header.crypt_method, header.l1_size, header.l1_table_offset
        )
        await self.child.pwrite(24, where)

    async def write_snapshots_position(self) -> None:
        """Make the header point at another snapshot table, in one write."""
        where = struct.pack(">IQ", self.header.snapshot_count, self.header.snapshots_offset)
        await self.child.pwrite(60, where)

    async def write_incompatible(self) -> None:
        """Write the incompatible feature bits and make them durable."""
        await self.child.pwrite(INCOMPATIBLE_AT, struct.pack(">Q", self.header.incompatible))
        await self.barrier()

    async def corruption(
        self, msg: str, offset: int | None = None, size: int | None = None
    ) -> OSError:
        """Note that the image is corrupt; return the error for the request that found it."""
        self.report(msg, offset, size, fatal=True)
        if self.writable and not self.dead:
            self.dead = True
            if self.header.version >= 3:
                self.header.incompatible |= INCOMPATIBLE_CORRUPT
                # The request fails with EIO in any case.
                with contextlib.suppress(OSError):
                    await self.write_incompatible()
        return os_error(errno.EIO)

    def report(
        self, msg: str, offset: int | None = None, size: int | None = None, *, fatal: bool
    ) -> None:
        """Report damage, unless as much was reported before; a read-only image is not marked."""
        fatal = fatal and self.writable
        if not self._signaled or (fatal and not self.dead):
            self._signaled = True
            self.on_corruption(Corruption(msg, offset, size, fatal))


def filled_part(table: array[int]) -> array[int]:
    """Return a table up to the last entry that is not zero: most are nearly empty."""
    filled = len(table.tobytes().rstrip(b"\0"))
    return table[: -(-filled // table.itemsize)]
