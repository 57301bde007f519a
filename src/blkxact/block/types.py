"""The vocabulary of nodes and drivers: permissions, roles of children, statuses, extents, flags.

QEMU's counterpart: ``include/block/block-common.h`` (BDRV_BLOCK_*, BLK_PERM_*, BDRV_REQ_*,
BDRV_SECTOR_SIZE), ``include/block/block_int-common.h`` (BdrvChildRole).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple, Protocol

from blkxact.storage.api import Buffer, StorageFile

SECTOR: Final = 512
"""Bytes of a sector (BDRV_SECTOR_SIZE). The length of a node is a whole number of them."""
MAX_LENGTH: Final = (2**63 - 1) & ~(2**30 - 1)
"""The longest image (BDRV_MAX_LENGTH), in bytes."""


class Permission(IntFlag):
    """BLK_PERM_*: what a parent does with a node, and what it lets others do."""

    NONE = 0
    CONSISTENT_READ = 1
    WRITE = 2
    WRITE_UNCHANGED = 4
    RESIZE = 8
    ALL = 15


class Status(IntFlag):
    """BDRV_BLOCK_*: what is known of an extent."""

    NONE = 0
    DATA = 1
    """It must be read to know it."""
    ZERO = 2
    """It reads as zeroes."""
    ALLOCATED = 4
    """This layer decides it, not the backing file."""
    COMPRESSED = 8
    """It is stored compressed; no ``file`` says where."""
    UNKNOWN = 16
    """What it reads as is not known, and it may take no space. No layer below decides it."""
    PREALLOCATED = 32
    """It reads as zeroes, and the file has room for it (OFFSET_VALID, of a range of zeroes)."""


class Extent(NamedTuple):
    """A run of bytes with one status."""

    offset: int
    length: int
    status: Status
    file: StorageFile | None = None
    """The file that holds the bytes unchanged, if any, and if no layer has to see the reads."""
    file_offset: int = 0
    depth: int = 0
    """How many layers below the asked node the run was found (set by the node, not the driver)."""


class WriteFlags(IntFlag):
    """BDRV_REQ_*."""

    NONE = 0
    FUA = 1
    MAY_UNMAP = 2
    COMPRESSED = 4
    UNCHANGED = 8
    """The bytes read the same afterwards (copy-on-read, a filter's own copying)."""
    NO_FALLBACK = 16


class ChildRole(IntFlag):
    """BDRV_CHILD_*."""

    DATA = 1
    METADATA = 2
    FILTERED = 4
    COW = 8
    PRIMARY = 16

    IMAGE = 19
    """A protocol node under a format: data, metadata and primary."""


class SnapshotAccess(Protocol):
    """A point in time of a disk that keeps changing (``bdrv_co_preadv_snapshot``)."""

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes; ``OSError(EACCES)`` where not all may be read."""

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of a range; ``OSError(EACCES)`` where not all may be read."""

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give up whole clusters of a range."""
