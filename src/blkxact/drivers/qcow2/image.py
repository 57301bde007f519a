"""One open qcow2 image: its header, tables and caches, and the order in which they are written.

Invariants of the order on stable storage (``write_back``):

    refcounts that rose, guest data → barrier → L2 slices → barrier → L1 table
      → barrier → refcounts that fell

so a crash at any point leaves leaked clusters at most, and never a table that points at what is not
there. The barriers are made only when something follows them.

QEMU's counterpart: ``qcow2_do_open``, ``qcow2_write_caches`` and the dependencies of its caches.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence

from blkxact.block.range_lock import RangeLock
from blkxact.block.types import SECTOR
from blkxact.enums import BlkdebugEvent
from blkxact.errors import QmpError, os_error, strerror

from . import compression
from .cluster_map import ClusterMap
from .data_file import NAME as DATA_FILE
from .data_file import DataFile
from .layout import (
    AUTOCLEAR_KNOWN,
    AUTOCLEAR_RAW_DATA_FILE,
    ENTRY_SIZE,
    HEADER_SIZE,
    INCOMPATIBLE_COMPRESSION,
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_EXTENDED_L2,
    MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
    MAX_SNAPSHOTS,
    MIN_CLUSTER_BITS,
    OFFSET_MASK,
    REFCOUNT_OFFSET_MASK,
    Header,
    feature_names,
    l1_size_for,
    parse_first_cluster,
    parse_header,
    unsupported_features,
    validate_table,
)
from .layout_tables import (
    MAX_SNAPSHOT_ENTRY,
    MAX_SNAPSHOT_TABLE_BYTES,
    Snapshot,
    parse_snapshot,
)
from .metadata_file import INCOMPATIBLE_AT, Child, MetadataFile, filled_part
from .metadata_guard import (
    ACTIVE_L1,
    ACTIVE_L2,
    BITMAP_DIRECTORY,
    INACTIVE_L1,
    REFCOUNT_BLOCK,
    REFCOUNT_TABLE,
    SNAPSHOT_TABLE,
)
from .refcount_blocks import MIN_CACHED_BLOCKS
from .refcounts import Refcounts
from .runs import Run, clipped, close_together
from .runtime_options import CacheSizes
from .subclusters import SubclusterMap

SUPPORTED_INCOMPATIBLE = (
    INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_DATA_FILE
    | INCOMPATIBLE_COMPRESSION
    | INCOMPATIBLE_EXTENDED_L2
)
MAX_RELEASED_CLUSTERS = 4096
"""Released clusters that may wait for a write-back before one is made for them."""
MAP_WINDOW_SLICES = 64
"""Slices that one look at the map needs in memory at a time."""
GAP_CLUSTERS = 16
"""Clusters between two ranges that are looked up along with them: less work than another look."""


class Image:
    """The state that the parts of the driver share.

    ``lock`` orders all that changes metadata, ``ranges`` the requests on the disk.
    """

    def __init__(self, children: Mapping[str, Child], header: Header, *, writable: bool) -> None:
        self.children = children
        self.header = header
        self.file = MetadataFile(children, header, writable=writable)
        self.refcounts = Refcounts(self.file)
        kind = SubclusterMap if header.has_extended_l2 else ClusterMap
        self.map = kind(self.file, self.refcounts)
        self.snapshots: list[Snapshot] = []
        self.snapshots_bytes = 0
        self.lock = asyncio.Lock()
        self.ranges = RangeLock()
        self.size = header.size // SECTOR * SECTOR
        self._writing_back = False
        self.cluster_bits = header.cluster_bits
        self.cluster_size = header.cluster_size
        self.subcluster_size = header.subcluster_size
        self.has_data_file = header.has_data_file
        self.data_shift = header.cluster_size if header.has_data_file else 0
        """What is added to an offset of the disk for its place in the data file."""
        self._data_file = DataFile(children, self.data_shift) if header.has_data_file else None

    @property
    def data(self) -> Child:
        """Where the clusters of the disk lie."""
        return self._data_file or self.children["file"]

    async def data_event(self, name: BlkdebugEvent) -> None:
        """Report a BlkdebugEvent to a blkdebug below the disk's clusters."""
        if self.data.wants_events:
            await self.data.debug_event(name)

    @property
    def backing(self) -> Child | None:
        """The backing file, if it is open."""
        return self.children.get("backing")

    def check_alive(self) -> None:
        """Raise ``OSError(ENOMEDIUM)`` after fatal corruption was found, as QEMU does."""
        if self.file.dead:
            raise os_error(errno.ENOMEDIUM)

    def round_up(self, length: int) -> int:
        """Round bytes up to whole clusters."""
        return -(-length >> self.cluster_bits) << self.cluster_bits

    def protect(self) -> None:
        """Note where the metadata lies, so that nothing is written over it."""
        guard, header = self.refcounts.guard, self.header
        guard.add_bytes(
            REFCOUNT_TABLE,
            header.refcount_table_offset,
            header.refcount_table_clusters << self.cluster_bits,
        )
        guard.add_bytes(ACTIVE_L1, header.l1_table_offset, header.l1_size * ENTRY_SIZE)
        guard.add_bytes(SNAPSHOT_TABLE, header.snapshots_offset, self.snapshots_bytes)
        if header.bitmaps is not None:
            place = header.bitmaps
            guard.add_bytes(BITMAP_DIRECTORY, place.directory_offset, place.directory_size)
        for snapshot in self.snapshots:
            guard.add_bytes(INACTIVE_L1, snapshot.l1_table_offset, snapshot.l1_size * ENTRY_SIZE)
        for name, table, mask in (
            (ACTIVE_L2, self.map.l1, OFFSET_MASK),
            (REFCOUNT_BLOCK, self.refcounts.blocks.table, REFCOUNT_OFFSET_MASK),
        ):
            for entry in filled_part(table):
                if entry & mask:
                    guard.add(name, (entry & mask) >> self.cluster_bits)

    def limit_caches(self, sizes: CacheSizes) -> None:
        """Keep at most so much of the tables in memory, but enough for one request."""
        slice_bytes = self.map.slice_entries << self.map.entry_bits
        self.map.max_slices = max(2 * MAP_WINDOW_SLICES, sizes.l2 // slice_bytes)
        blocks = sizes.refcounts >> self.cluster_bits
        self.refcounts.blocks.max_blocks = max(MIN_CACHED_BLOCKS, blocks)
        self.map.forget_clean()

    async def runs(self, offset: int, length: int) -> list[Run]:
        """Return the checked runs that cover a range; loads what is missing."""
        return await self._checked(await self._look_up(offset, length))

    async def runs_of(self, ranges: Sequence[tuple[int, int]]) -> list[Run]:
        """Return the checked runs of ranges in order; of several, unallocated runs are left out.

        What lies between them is not checked: it may be hidden, and nobody has asked for it.
        """
        if len(ranges) == 1:
            return await self.runs(*ranges[0])
        runs: list[Run] = []
        for start, stop, those in close_together(ranges, GAP_CLUSTERS << self.cluster_bits):
            runs += clipped(await self._look_up(start, stop - start), those)
        return await self._checked(runs)

    async def _checked(self, runs: list[Run]) -> list[Run]:
        for run in runs:
            if not self.map.is_plain(run):
                await self.map.check(run)
        return runs

    async def _look_up(self, offset: int, length: int) -> list[Run]:
        window = MAP_WINDOW_SLICES << self.map.slice_shift
        end = offset + length
        runs: list[Run] = []
        while offset < end:
            stop = min(end, (offset // window + 1) * window)
            while (key := self.map.missing(offset, stop - offset)) is not None:
                async with self.lock:
                    self.check_alive()
                    await self.map.load(key)
            runs += self.map.runs(offset, stop - offset)
            offset = stop
        return runs

    async def write_back(self) -> None:
        """Write all cached metadata, in order (under the lock)."""
        self._writing_back = True
        try:
            await self._write_back()
        finally:
            self._writing_back = False

    async def _write_back(self) -> None:
        if self.map.is_dirty:
            await self.refcounts.write_dirty()
            await self.file.barrier()
            await self.map.write_slices()
            if self.map.is_dirty:
                await self.file.barrier()
                await self.map.write_l1()
        if self.refcounts.released:
            await self.file.barrier()
            await self.refcounts.apply_released()
        await self.refcounts.write_dirty()

    @property
    def is_dirty(self) -> bool:
        """Whether metadata waits to be written."""
        return self.map.is_dirty or self.refcounts.is_dirty

    async def relieve(self) -> None:
        """Write back if the caches hold more than they should (under the lock)."""
        if self.map.is_crowded or self.refcounts.released_clusters > MAX_RELEASED_CLUSTERS:
            await self.write_back()

    async def flush(self) -> None:
        """Write back and make all durable."""
        # A write-back under way may have emptied the caches and not reached its last barrier.
        if self.is_dirty or self._writing_back:
            async with self.lock:
                self.check_alive()
                await self.write_back()
        await self.file.barrier()

    async def write_header(self) -> None:
        """Write the header and make it durable (under the lock)."""
        await self.file.write_header()
        await self.file.barrier()


async def read_header(child: Child) -> tuple[Header, bytes]:
    """Return the header and the first cluster; raises ``QmpError``."""
    try:
        header = parse_header(bytes(await child.pread(0, HEADER_SIZE)))
        cluster = bytes(await child.pread(0, header.cluster_size))
    except OSError as error:
        raise QmpError(f"Could not read qcow2 header: {strerror(error)}") from error
    parse_first_cluster(header, cluster)
    return header, cluster


async def may_have_data_file(child: Child) -> bool:
    """Return whether it is worth looking closer; an image that cannot be read says so later."""
    try:
        features = await child.pread(INCOMPATIBLE_AT, 8)
    except OSError:
        return False
    return bool(int.from_bytes(features) & INCOMPATIBLE_DATA_FILE)


def check_features(header: Header, cluster: bytes, *, writable: bool, checking: bool) -> None:
    """Refuse what cannot be served; raises ``QmpError`` in QEMU's words."""
    compression.validate(header)
    unknown = header.incompatible & ~SUPPORTED_INCOMPATIBLE
    if unknown:
        raise unsupported_features(unknown, feature_names(header, cluster))
    if header.subcluster_size < 1 << MIN_CLUSTER_BITS:
        raise QmpError(f"Unsupported subcluster size: {header.subcluster_size}")
    if header.incompatible & INCOMPATIBLE_CORRUPT and writable and not checking:
        raise QmpError("qcow2: Image is corrupt; cannot be opened read/write")
    if header.refcount_order > 6:
        raise QmpError("Reference count entry width too large; may not exceed 64 bits")
    if header.crypt_method:
        raise QmpError("Encrypted qcow2 images are not supported")
    if header.autoclear & AUTOCLEAR_RAW_DATA_FILE and not header.has_data_file:
        raise QmpError("data-file-raw requires a data file")


def _check_data_file(header: Header, children: Mapping[str, Child], *, without_data: bool) -> None:
    if header.has_data_file and DATA_FILE not in children and not without_data:
        raise QmpError("'data-file' is required for this image")
    if DATA_FILE in children and not header.has_data_file:
        raise QmpError("'data-file' can only be set for images with an external data file")


def check_tables(header: Header, *, checking: bool) -> None:
    """Check position and size of the tables that the header names; raises ``QmpError``."""
    if header.refcount_table_clusters == 0 and not checking:
        raise QmpError("Image does not contain a reference count table")
    validate_table(
        header,
        "Reference count table",
        header.refcount_table_offset,
        header.refcount_table_clusters,
        entry_size=header.cluster_size,
        limit=MAX_REFCOUNT_TABLE_BYTES,
    )
    if not checking:
        check_snapshot_table(header)
    validate_table(
        header,
        "Active L1 table",
        header.l1_table_offset,
        header.l1_size,
        limit=MAX_L1_BYTES,
    )
    needed = l1_size_for(header, header.size)
    if needed > 2**31 - 1:
        raise QmpError("Image is too big")
    if header.l1_size < needed:
        raise QmpError("L1 table is too small")


def check_snapshot_table(header: Header) -> None:
    """Check position and size of the snapshot table; raises ``QmpError``."""
    validate_table(
        header,
        "Snapshot table",
        header.snapshots_offset,
        header.snapshot_count,
        entry_size=1,
        limit=MAX_SNAPSHOTS,
    )


async def open_image(
    children: Mapping[str, Child],
    *,
    writable: bool,
    checking: bool = False,
    without_data: bool = False,
) -> Image:
    """Read all that must be known of an image; raises ``QmpError`` and has written nothing.

    ``checking`` opens also what is too damaged for use. ``without_data``: nobody will read or write
    the disk, so its data file may be missing.
    """
    child = children["file"]
    header, cluster = await read_header(child)
    check_features(header, cluster, writable=writable, checking=checking)
    if not checking:
        _check_data_file(header, children, without_data=without_data)
    check_tables(header, checking=checking)
    image = Image(children, header, writable=writable)
    try:
        if header.l1_size:
            image.map.l1 = await image.file.read_table(header.l1_table_offset, header.l1_size)
    except OSError as error:
        raise QmpError(f"Could not read L1 table: {strerror(error)}") from error
    try:
        await image.refcounts.load()
    except OSError as error:
        raise QmpError(f"Could not initialize refcount handling: {strerror(error)}") from error
    if not checking:
        image.snapshots, image.snapshots_bytes = await read_snapshots(child, header)
    if writable:
        image.protect()
    return image


async def clear_unknown_features(image: Image) -> None:
    """Clear, before writing to the image, the autoclear features that writers must know."""
    header = image.header
    if header.autoclear & ~AUTOCLEAR_KNOWN or header.lost_bitmaps:
        header.autoclear &= AUTOCLEAR_KNOWN
        header.lost_bitmaps = False
        await image.write_header()


async def read_snapshots(child: Child, header: Header) -> tuple[list[Snapshot], int]:
    """Return the snapshot table and the bytes it takes; raises ``QmpError``."""
    snapshots: list[Snapshot] = []
    offset, position, data = header.snapshots_offset, 0, b""
    for index in range(header.snapshot_count):
        if len(data) - position < MAX_SNAPSHOT_ENTRY:
            offset += position
            if offset - header.snapshots_offset > MAX_SNAPSHOT_TABLE_BYTES:
                raise QmpError("Snapshot table is too big")
            try:
                data = bytes(await child.pread(offset, 2 * MAX_SNAPSHOT_ENTRY))
            except OSError as error:
                raise QmpError(f"Failed to read snapshot table: {strerror(error)}") from error
            position = 0
        snapshot, position = parse_snapshot(data, position, index)
        snapshots.append(snapshot)
    return snapshots, offset + position - header.snapshots_offset
