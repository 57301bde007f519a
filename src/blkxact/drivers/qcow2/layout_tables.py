"""The two tables of records in a qcow2 file: internal snapshots and the bitmap directory.

As ``layout``: facts of the disk format, packing and unpacking with checks, no input or output.

QEMU's counterpart: ``block/qcow2-snapshot.c``, ``block/qcow2-bitmap.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from blkxact.errors import QmpError
from blkxact.runtime.record import Value

from .layout import MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, Header

_SNAPSHOT = struct.Struct(">QIHHIIQII")
_SNAPSHOT_EXTRA = struct.Struct(">QQQ")
MAX_SNAPSHOT_EXTRA = 1024
MAX_SNAPSHOT_ENTRY = _SNAPSHOT.size + MAX_SNAPSHOT_EXTRA + 2 * 0xFFFF + 8
"""Most bytes of one entry of the snapshot table."""
MAX_SNAPSHOT_TABLE_BYTES = 1024 * 65536

_BITMAP = struct.Struct(">QIIBBHI")
BITMAP_IN_USE = 1
BITMAP_AUTO = 2
BITMAP_FLAGS = BITMAP_IN_USE | BITMAP_AUTO
BITMAP_TYPE_DIRTY = 1
MAX_BITMAP_NAME = 1023
MIN_GRANULARITY_BITS = 9
MAX_GRANULARITY_BITS = 31
MAX_BITMAP_TABLE_ENTRIES = 0x8000000
MAX_BITMAP_BYTES = 0x20000000
BITMAP_ENTRY_RESERVED = 0xFF000000000001FE
BITMAP_ENTRY_OFFSET = 0x00FFFFFFFFFFFE00
BITMAP_ENTRY_ALL_ONES = 1


class Snapshot(Value):
    """Section "Snapshots". ``disk_size`` is None where the image does not record it."""

    l1_table_offset: int
    l1_size: int
    id: str
    name: str
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    vm_state_size: int
    disk_size: int | None
    icount: int | None
    unknown_extra: bytes = b""


def parse_snapshot(data: bytes, position: int, index: int) -> tuple[Snapshot, int]:
    """Read the entry at ``position`` of ``data``; return it and the position of the next.

    ``data`` reaches at least ``MAX_SNAPSHOT_ENTRY`` bytes further. Raises ``QmpError``.
    """
    (l1_offset, l1_size, id_size, name_size, date_sec, date_nsec, clock, state_size,
     extra_size) = _SNAPSHOT.unpack_from(data, position)  # fmt: skip
    if extra_size > MAX_SNAPSHOT_EXTRA:
        raise QmpError(f"Too much extra metadata in snapshot table entry {index}")
    position += _SNAPSHOT.size
    extra = data[position : position + extra_size]
    position += extra_size
    large, size, icount = _SNAPSHOT_EXTRA.unpack(extra[: _SNAPSHOT_EXTRA.size].ljust(24, b"\0"))
    identity = data[position : position + id_size]
    name = data[position + id_size : position + id_size + name_size]
    end = position + id_size + name_size
    snapshot = Snapshot(
        l1_table_offset=l1_offset,
        l1_size=l1_size,
        id=identity.decode(errors="surrogateescape"),
        name=name.decode(errors="surrogateescape"),
        date_sec=date_sec,
        date_nsec=date_nsec,
        vm_clock_nsec=clock,
        vm_state_size=large if extra_size >= 8 else state_size,
        disk_size=size if extra_size >= 16 else None,
        icount=icount if extra_size >= 24 and icount != 2**64 - 1 else None,
        unknown_extra=bytes(extra[_SNAPSHOT_EXTRA.size :]),
    )
    return snapshot, -(-end // 8) * 8


def pack_snapshot(snapshot: Snapshot, disk_size: int) -> bytes:
    """Return the entry of a snapshot; ``disk_size`` is for one that does not record its own."""
    icount = 2**64 - 1 if snapshot.icount is None else snapshot.icount
    size = disk_size if snapshot.disk_size is None else snapshot.disk_size
    extra = _SNAPSHOT_EXTRA.pack(snapshot.vm_state_size, size, icount) + snapshot.unknown_extra
    identity, name = _encode(snapshot.id), _encode(snapshot.name)
    fixed = _SNAPSHOT.pack(
        snapshot.l1_table_offset, snapshot.l1_size, len(identity), len(name), snapshot.date_sec,
        snapshot.date_nsec, snapshot.vm_clock_nsec, min(snapshot.vm_state_size, 2**32 - 1),
        len(extra),
    )  # fmt: skip
    entry = fixed + extra + identity + name
    return entry.ljust(-(-len(entry) // 8) * 8, b"\0")


def pack_snapshots(snapshots: list[Snapshot], disk_size: int) -> bytes:
    """Return the snapshot table; raises ``QmpError`` if it would not be read as it was written."""
    packed = b"".join(pack_snapshot(snapshot, disk_size) for snapshot in snapshots)
    data, position = packed + bytes(MAX_SNAPSHOT_ENTRY), 0
    for index, snapshot in enumerate(snapshots):
        read, position = parse_snapshot(data, position, index)
        if (read.id, read.name, read.l1_size) != (snapshot.id, snapshot.name, snapshot.l1_size):
            raise QmpError(f"Snapshot table entry {index} cannot be written")
    return packed


class BitmapEntry(Value):
    """An entry of the bitmap directory (section "Bitmap directory")."""

    name: str
    granularity_bits: int
    flags: int = 0
    table_offset: int = 0
    table_size: int = 0
    """Number of entries of the bitmap table."""
    kind: int = BITMAP_TYPE_DIRTY
    extra: bytes = b""

    @property
    def in_use(self) -> bool:
        """Whether the image was open for writing and the bitmap not saved since."""
        return bool(self.flags & BITMAP_IN_USE)

    @property
    def packed_size(self) -> int:
        """Bytes that the entry takes in the directory."""
        return packed_bitmap_size(self.name, len(self.extra))


def packed_bitmap_size(name: str, extra: int = 0) -> int:
    """Return the bytes of a directory entry for a bitmap of this name, with ``extra`` bytes."""
    return -(-(_BITMAP.size + extra + len(_encode(name))) // 8) * 8


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def pack_bitmap_directory(entries: list[BitmapEntry]) -> bytes:
    """Return the directory's bytes."""
    parts = []
    for entry in entries:
        name = _encode(entry.name)
        fixed = _BITMAP.pack(
            entry.table_offset, entry.table_size, entry.flags, entry.kind,
            entry.granularity_bits, len(name), len(entry.extra),
        )  # fmt: skip
        parts.append((fixed + entry.extra + name).ljust(entry.packed_size, b"\0"))
    return b"".join(parts)


def pack_checked_directory(entries: list[BitmapEntry], header: Header, disk_size: int) -> bytes:
    """Return the directory's bytes; raises ``QmpError`` if no image with it could be opened."""
    check_directory_size(entries)
    packed = pack_bitmap_directory(entries)
    parse_bitmap_directory(packed, len(entries), header, disk_size)
    return packed


def check_directory_size(entries: Collection[BitmapEntry]) -> None:
    """Raise ``QmpError`` for more than a directory can hold."""
    if len(entries) > MAX_BITMAPS:
        raise QmpError("Too many persistent bitmaps")
    if sum(entry.packed_size for entry in entries) > MAX_BITMAP_DIRECTORY_BYTES:
        raise QmpError("Bitmap directory is too large")


def parse_bitmap_directory(
    data: bytes, count: int, header: Header, disk_size: int
) -> list[BitmapEntry]:
    """Return the entries of a directory that must hold ``count`` of them; raises ``QmpError``."""
    entries = []
    for entry in read_bitmap_directory(data, count):
        check_bitmap_entry(entry, header, disk_size)
        entries.append(entry)
    return entries


def read_bitmap_directory(data: bytes, count: int) -> Iterator[BitmapEntry]:
    """Yield the entries of a directory, sane or not; raises ``QmpError`` where it is broken."""
    found = position = 0
    while position < len(data):
        if position + _BITMAP.size > len(data):
            raise QmpError("Broken bitmap directory")
        if found == count:
            raise QmpError("More bitmaps found than specified in header extension")
        (table_offset, table_size, flags, kind, bits, name_size, extra) = _BITMAP.unpack_from(
            data, position
        )
        start = position + _BITMAP.size + extra
        position += -(-(_BITMAP.size + extra + name_size) // 8) * 8
        if position > len(data):
            raise QmpError("Broken bitmap directory")
        name = data[start : start + name_size].decode(errors="surrogateescape")
        own_extra = bytes(data[start - extra : start])
        yield BitmapEntry(name, bits, flags, table_offset, table_size, kind, own_extra)
        found += 1
    if found != count:
        raise QmpError("Less bitmaps found than specified in header extension")


def check_bitmap_entry(entry: BitmapEntry, header: Header, disk_size: int) -> None:
    """Raise ``QmpError`` for an entry with which an image cannot be opened."""
    if entry.extra:
        raise QmpError("Bitmap extra data is not supported")
    if entry.kind != BITMAP_TYPE_DIRTY or not bitmap_entry_is_sane(entry, header, disk_size):
        raise QmpError(f"Bitmap '{entry.name}' doesn't satisfy the constraints")


def bitmap_entry_is_sane(entry: BitmapEntry, header: Header, disk_size: int) -> bool:
    """Return whether the numbers of an entry may be acted upon."""
    stored = entry.table_size * header.cluster_size
    return (
        entry.table_size > 0
        and entry.table_offset > 0
        and entry.table_offset % header.cluster_size == 0
        and entry.table_size <= MAX_BITMAP_TABLE_ENTRIES
        and MIN_GRANULARITY_BITS <= entry.granularity_bits <= MAX_GRANULARITY_BITS
        and not entry.flags & ~BITMAP_FLAGS
        and len(_encode(entry.name)) <= MAX_BITMAP_NAME
        and stored <= MAX_BITMAP_BYTES
        # A bitmap in use may be stale in size as well: the disk may have grown since.
        and (entry.in_use or disk_size <= (stored * 8) << entry.granularity_bits)
    )


def bitmap_table_entry_is_sane(entry: int, cluster_size: int) -> bool:
    """Return whether an entry of a bitmap table has no reserved bit and an aligned offset."""
    offset = entry & BITMAP_ENTRY_OFFSET
    if entry & BITMAP_ENTRY_RESERVED or offset % cluster_size:
        return False
    return not (offset and entry & BITMAP_ENTRY_ALL_ONES)


def check_new_bitmap(
    name: str, granularity: int, disk_size: int, cluster_size: int, *, storing: bool = False
) -> None:
    """Raise ``QmpError`` if a bitmap cannot be kept in the image.

    A bitmap of an empty disk can be made, as in QEMU (the disk may grow), but not stored: a
    bitmap table without entries is refused by every reader.
    """
    bits = granularity.bit_length() - 1
    if bits > MAX_GRANULARITY_BITS:
        raise QmpError(f"Granularity exceeds maximum ({1 << MAX_GRANULARITY_BITS} bytes)")
    if bits < MIN_GRANULARITY_BITS:
        raise QmpError(f"Granularity is under minimum ({1 << MIN_GRANULARITY_BITS} bytes)")
    if not disk_size and storing:
        raise QmpError("The disk has no bytes")
    stored = -(-disk_size // (granularity * 8))
    if stored > min(MAX_BITMAP_BYTES, MAX_BITMAP_TABLE_ENTRIES * cluster_size):
        raise QmpError("Too much space will be occupied by the bitmap. Use larger granularity")
    if len(_encode(name)) > MAX_BITMAP_NAME:
        raise QmpError(f"Name length exceeds maximum ({MAX_BITMAP_NAME} characters)")
