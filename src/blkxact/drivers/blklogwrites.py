"""blklogwrites: a filter that keeps a log of all writes, to look at the disk as it was after each.

The log has the format of Linux's dm-log-writes, which its tools replay. It consists of sectors of
``log-sector-size`` bytes: a super block, and then for each request an entry and its data.

* Super block: magic, version, number of entries (64 bits each), sector size (32 bits).
* Entry: first sector, number of sectors, flags, and 0 (64 bits each). A discard has no data.

All numbers are little-endian; what is left of a sector is zero.

Invariants:

* A request is logged once it has ended, whether or not it failed.
* The super block is written and flushed at each flush, and after each
  ``log-super-update-interval`` entries. Entries that came later are not part of the log yet.

QEMU's counterpart: ``block/blklogwrites.c``; ``qapi/block-core.json``
(BlockdevOptionsBlklogwrites). Format: ``Documentation/admin-guide/device-mapper/log-writes.rst``
of Linux.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, WriteFlags
from blkxact.errors import QmpError, strerror
from blkxact.storage.api import Buffer, Payload, payload_bytes

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsBlklogwrites

MAGIC: Final = 0x6A736677736872
VERSION: Final = 1
FLUSH: Final = 1 << 0
DISCARD: Final = 1 << 2
KNOWN_FLAGS: Final = 0xF
"""Flush, FUA, discard, mark."""
SECTOR_SIZE: Final = 512
"""Bytes of a sector, if neither options nor an existing log say otherwise."""
MAX_SECTOR_SIZE: Final = 1 << 24
"""The sector size is below."""
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")


class BlklogwritesDriver(FilterDriver):
    """The driver ``blklogwrites`` over ``file``, with its ``log``."""

    format_name = "blklogwrites"
    filename = ""
    strong_options = frozenset({"log-append", "log-sector-size"})

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        sector_size: int,
        update_interval: int,
    ) -> None:
        self._log = children["log"]
        self._sector_size = sector_size
        self._update_interval = update_interval
        self._entries = 0
        self._end = sector_size
        """Where in the log the next entry goes."""
        self._updating = asyncio.Lock()
        super().__init__(context, children)

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the two children."""
        return {**super().child_roles(options), "log": ChildRole.METADATA}

    @classmethod
    async def open(
        cls,
        context: OpenContext,
        options: BlockdevOptionsBlklogwrites,
        children: Mapping[str, Child],
    ) -> BlklogwritesDriver:
        """Open; raises ``QmpError`` for options, and for a log that cannot be continued."""
        log = children["log"]
        sector_size, entries = options.log_sector_size, 0
        if options.log_append:
            if sector_size is not None:
                raise QmpError("log-append and log-sector-size are mutually exclusive")
            sector_size, entries = await _read_super_block(log)
        elif sector_size is None:
            sector_size = SECTOR_SIZE
        if not _is_valid(sector_size):
            raise QmpError(f"Invalid log sector size {sector_size}")
        end = await _find_end(log, sector_size, entries)
        interval = options.log_super_update_interval
        if not interval:
            raise QmpError(f"Invalid log superblock update interval {interval}")
        driver = cls(context, children, sector_size, interval)
        driver._entries, driver._end = entries, end
        return driver

    def refresh_limits(self) -> None:
        """Take whole sectors of the log only."""
        super().refresh_limits()
        self.request_alignment = self._sector_size

    @property
    def supports_fua(self) -> bool:  # type: ignore[override]
        """Leave it to the node to flush, so that the log has that flush."""
        return False

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write, and log it."""
        data = await payload_bytes(payload)
        failure = await _outcome(super().pwrite(offset, data, flags))
        await self._append(offset, len(data), data=data)
        _raise(failure)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes, and log them; they unmap nothing, as in QEMU."""
        del flags
        failure = await _outcome(super().pwrite_zeroes(offset, length))
        await self._append(offset, length, zeroes=length)
        _raise(failure)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard the whole sectors of the range, and log it."""
        size = self._sector_size
        first, end = -(-offset // size) * size, (offset + length) // size * size
        if first >= end:
            return
        failure = await _outcome(super().pdiscard(first, end - first))
        await self._append(first, end - first, flags=DISCARD)
        _raise(failure)

    async def flush(self) -> None:
        """Flush the disk, and make the log so far durable."""
        failure = await _outcome(super().flush())
        await self._append(0, 0, flags=FLUSH)
        _raise(failure)

    async def _append(
        self, offset: int, length: int, *, flags: int = 0, data: Buffer = b"", zeroes: int = 0
    ) -> None:
        """Write an entry, and what belongs to it. Raises ``OSError``."""
        size = self._sector_size
        entry = _ENTRY.pack(offset // size, length // size, flags, 0)
        place = self._end
        self._entries += 1
        due = flags & FLUSH or not self._entries % self._update_interval
        self._end += size + len(data) + zeroes
        await self._log.pwrite(place, b"".join((entry.ljust(size, b"\0"), data)))
        if zeroes:
            await self._log.pwrite_zeroes(place + size, zeroes)
        if due:
            async with self._updating:
                await self._write_super_block()

    async def _write_super_block(self) -> None:
        block = _SUPER.pack(MAGIC, VERSION, self._entries, self._sector_size)
        await self._log.pwrite(0, block.ljust(self._sector_size, b"\0"))
        await self._log.flush()


async def _outcome(request: Any) -> OSError | None:
    """Return how a request failed, or None."""
    try:
        await request
    except OSError as error:
        return error
    return None


def _raise(failure: OSError | None) -> None:
    if failure is not None:
        raise failure


def _is_valid(sector_size: int) -> bool:
    is_power = sector_size > 0 and not sector_size & (sector_size - 1)
    return is_power and max(_SUPER.size, _ENTRY.size) <= sector_size < MAX_SECTOR_SIZE


async def _read_super_block(log: Child) -> tuple[int, int]:
    """Return the sector size and the number of entries; raises ``QmpError``."""
    if not log.length:
        return SECTOR_SIZE, 0
    try:
        block = await _read(log, 0, _SUPER.size)
    except OSError as error:
        raise QmpError(f"Could not read log superblock: {strerror(error)}") from error
    magic, version, entries, sector_size = _SUPER.unpack(block)
    if magic != MAGIC:
        raise QmpError("Invalid log superblock magic")
    if version != VERSION:
        raise QmpError(f"Unsupported log version {version}")
    return sector_size, entries


async def _find_end(log: Child, sector_size: int, entries: int) -> int:
    """Return where the log of so many entries ends; raises ``QmpError``."""
    end = sector_size
    for number in range(entries):
        try:
            entry = await _read(log, end, _ENTRY.size)
        except OSError as error:
            raise QmpError(f"Failed to read log entry {number}: {strerror(error)}") from error
        _, sectors, flags, _ = _ENTRY.unpack(entry)
        if flags & ~KNOWN_FLAGS:
            raise QmpError(f"Invalid flags 0x{flags:x} in log entry {number}")
        end += sector_size
        if not flags & DISCARD:
            end += sectors * sector_size
    return end


async def _read(log: Child, offset: int, length: int) -> bytes:
    """Read from the log; past its end there are zeroes."""
    there = max(0, min(length, log.length - offset))
    data = bytes(await log.pread(offset, there)) if there else b""
    return data.ljust(length, b"\0")
