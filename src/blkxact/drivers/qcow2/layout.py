"""What a qcow2 file looks like on disk: numbers, names, packing and unpacking, and nothing else.

All integers on disk are big-endian. Sections named in docstrings are those of the specification
(``docs/interop/qcow2.txt`` of QEMU). Checks raise ``QmpError`` with the text that QEMU gives; every
limit on what an image may ask for has its name here.

QEMU's counterpart: ``block/qcow2.h``.
"""

from __future__ import annotations

import errno
import struct

from blkxact.enums import Qcow2CompressionType
from blkxact.errors import QmpError, os_error
from blkxact.runtime.record import Value, made

MAGIC = 0x514649FB
MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
DEFAULT_CLUSTER_SIZE = 1 << 16
ENTRY_SIZE = 8
"""Bytes of an entry of the L1, L2, refcount and bitmap tables."""

MAX_L1_BYTES = 32 << 20
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_BITMAPS = 65535
MAX_BITMAP_DIRECTORY_BYTES = 1024 * MAX_BITMAPS
MAX_BACKING_NAME = 1023
MAX_BACKING_FORMAT = 15  # QEMU cuts off the rest
MAX_OFFSET = 2**63 - 1
MAX_CLUSTER_OFFSET = 2**56 - 1

COPIED = 1 << 63
"""L1 and L2: exactly one reference to the cluster, so it may be written in place."""
COMPRESSED = 1 << 62
ZERO = 1
PARTIAL = 2
"""Only in memory: subclusters differ (``subclusters``). On disk the bit is reserved."""
SUBCLUSTER_BITS = 5
SUBCLUSTERS = 1 << SUBCLUSTER_BITS
"""Subclusters of a cluster, where L2 entries are extended."""
OFFSET_MASK = 0x00FFFFFFFFFFFE00
"""Where an L1 or L2 entry's cluster lies."""
L1_RESERVED = 0x7F000000000001FF
L2_RESERVED = 0x3F000000000001FE
REFCOUNT_OFFSET_MASK = 0xFFFFFFFFFFFFFE00
REFCOUNT_RESERVED = 0x1FF

INCOMPATIBLE_DIRTY = 1
INCOMPATIBLE_CORRUPT = 2
INCOMPATIBLE_DATA_FILE = 4
INCOMPATIBLE_COMPRESSION = 8
INCOMPATIBLE_EXTENDED_L2 = 16
COMPATIBLE_LAZY_REFCOUNTS = 1
AUTOCLEAR_BITMAPS = 1
AUTOCLEAR_RAW_DATA_FILE = 2
AUTOCLEAR_KNOWN = AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA_FILE

COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1
COMPRESSION_NAMES = {
    COMPRESSION_ZLIB: Qcow2CompressionType.ZLIB,
    COMPRESSION_ZSTD: Qcow2CompressionType.ZSTD,
}

EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_FEATURE_NAMES = 0x6803F857
EXTENSION_CRYPTO = 0x0537BE77
EXTENSION_BITMAPS = 0x23852875
EXTENSION_DATA_FILE = 0x44415441

FEATURE_NAMES = (
    # kind (0 incompatible, 1 compatible, 2 autoclear), bit, name
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
)
SMALLEST_CLUSTER_WITH_NAMES = 8192
"""Below, the table of feature names would leave no room for a backing file's name."""

_FIXED = struct.Struct(">IIQIIQIIQQIIQ")  # version 2, 72 bytes
_VERSION_3 = struct.Struct(">QQQII")  # 32 bytes more
_FEATURE = struct.Struct(">BB46s")
_EXTENSION = struct.Struct(">II")
_BITMAPS = struct.Struct(">IIQQ")
HEADER_SIZE = 112
"""What QEMU 7.2 writes: version 3 with the compression type and its padding."""


class BitmapsExtension(Value):
    """Section "Bitmaps extension"."""

    count: int
    directory_size: int
    directory_offset: int


class Header(Value):
    """Section "Header", with what follows it in the first cluster."""

    version: int = 3
    cluster_bits: int = 16
    size: int = 0
    crypt_method: int = 0
    l1_size: int = 0
    l1_table_offset: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    snapshot_count: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = HEADER_SIZE
    compression_type: int = COMPRESSION_ZLIB
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    bitmaps: BitmapsExtension | None = None
    lost_bitmaps: bool = False
    """A bitmaps extension was there, but a program that does not know it wrote to the image."""
    unknown_fields: bytes = b""
    unknown_extensions: list[tuple[int, bytes]] = made(factory=list)

    @property
    def has_data_file(self) -> bool:
        """Whether the disk's bytes lie in a file of their own."""
        return bool(self.incompatible & INCOMPATIBLE_DATA_FILE)

    @property
    def data_file_raw(self) -> bool:
        """Whether that file alone must read as the disk does."""
        return self.has_data_file and bool(self.autoclear & AUTOCLEAR_RAW_DATA_FILE)

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def refcount_bits(self) -> int:
        """Width of a reference count."""
        return 1 << self.refcount_order

    @property
    def l1_entry_coverage(self) -> int:
        """Bytes of the disk that one L1 entry, one L2 table, maps."""
        return 1 << (2 * self.cluster_bits - self.l2_entry_bits)

    @property
    def has_extended_l2(self) -> bool:
        """Whether each L2 entry is followed by the bitmap of its subclusters."""
        return bool(self.incompatible & INCOMPATIBLE_EXTENDED_L2)

    @property
    def l2_entry_bits(self) -> int:
        """An L2 entry takes ``1 << l2_entry_bits`` bytes."""
        return 4 if self.has_extended_l2 else 3

    @property
    def subcluster_size(self) -> int:
        """Bytes that are allocated together: a cluster, unless L2 entries are extended."""
        return self.cluster_size >> (SUBCLUSTER_BITS if self.has_extended_l2 else 0)


def l1_size_for(header: Header, size: int) -> int:
    """Return how many L1 entries a disk of ``size`` bytes needs."""
    return -(-size // header.l1_entry_coverage)


def parse_header(data: bytes) -> Header:
    """Read the fixed part; ``data`` holds at least ``HEADER_SIZE`` bytes.

    Raises ``QmpError`` for what is no qcow2 image, or none that can exist.
    """
    (magic, version, _, _, cluster_bits, size, crypt, l1_size, l1_offset, refcount_offset,
     refcount_clusters, snapshots, snapshots_offset) = _FIXED.unpack_from(data)  # fmt: skip
    if magic != MAGIC:
        raise QmpError("Image is not in qcow2 format")
    if version not in (2, 3):
        raise QmpError(f"Unsupported qcow2 version {version}")
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        raise QmpError(f"Unsupported cluster size: 2^{cluster_bits}")
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        crypt_method=crypt,
        l1_size=l1_size,
        l1_table_offset=l1_offset,
        refcount_table_offset=refcount_offset,
        refcount_table_clusters=refcount_clusters,
        snapshot_count=snapshots,
        snapshots_offset=snapshots_offset,
        header_length=_FIXED.size,
    )
    if version == 3:
        _parse_version_3(header, data)
    if header.header_length > header.cluster_size:
        raise QmpError("qcow2 header exceeds cluster size")
    return header


def _parse_version_3(header: Header, data: bytes) -> None:
    (header.incompatible, header.compatible, header.autoclear, header.refcount_order,
     header.header_length) = _VERSION_3.unpack_from(data, _FIXED.size)  # fmt: skip
    end = _FIXED.size + _VERSION_3.size
    if header.header_length < end:
        raise QmpError("qcow2 header too short")
    if header.header_length > end:
        header.compression_type = data[end]


def parse_first_cluster(header: Header, data: bytes) -> None:
    """Read what follows the fixed part: unknown fields, extensions, the backing file's name.

    ``data`` is the whole first cluster. Raises ``QmpError``.
    """
    backing_offset, backing_size = struct.unpack_from(">QI", data, 8)
    if backing_offset > header.cluster_size:
        raise QmpError("Invalid backing file offset")
    header.unknown_fields = bytes(data[HEADER_SIZE : header.header_length])
    end = backing_offset or header.cluster_size
    position = header.header_length
    while position < end:
        magic, length = _EXTENSION.unpack_from(data.ljust(position + 8, b"\0"), position)
        position += _EXTENSION.size
        if position > end or length > end - position:
            raise QmpError("Header extension too large")
        if magic == EXTENSION_END:
            break
        _parse_extension(header, magic, bytes(data[position : position + length]))
        position += -(-length // 8) * 8
    if backing_offset:
        if backing_size > min(MAX_BACKING_NAME, header.cluster_size - backing_offset):
            raise QmpError("Backing file name too long")
        header.backing_file = _text(data[backing_offset : backing_offset + backing_size])


def _text(data: bytes) -> str:
    return bytes(data).split(b"\0", 1)[0].decode(errors="surrogateescape")


def _parse_extension(header: Header, magic: int, data: bytes) -> None:
    if magic == EXTENSION_BACKING_FORMAT:
        if len(data) > MAX_BACKING_FORMAT:
            raise QmpError(f"ERROR: ext_backing_format: len={len(data)} too large (>=16)")
        header.backing_format = _text(data)
    elif magic == EXTENSION_BITMAPS:
        _parse_bitmaps(header, data)
    elif magic == EXTENSION_DATA_FILE:
        header.data_file = _text(data)
    elif magic == EXTENSION_CRYPTO:
        if header.crypt_method != 2:
            raise QmpError("CRYPTO header extension only expected with LUKS encryption method")
    elif magic != EXTENSION_FEATURE_NAMES:
        header.unknown_extensions.append((magic, data))


def _parse_bitmaps(header: Header, data: bytes) -> None:
    if len(data) != _BITMAPS.size:
        raise QmpError("bitmaps_ext: Invalid extension length")
    if not header.autoclear & AUTOCLEAR_BITMAPS:
        header.lost_bitmaps = True
        return
    count, reserved, size, offset = _BITMAPS.unpack(data)
    if reserved:
        raise QmpError("bitmaps_ext: Reserved field is not zero")
    if count > MAX_BITMAPS:
        raise QmpError(
            f"bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of "
            f"{MAX_BITMAPS}"
        )
    if count == 0:
        raise QmpError("found bitmaps extension with zero bitmaps")
    if offset % header.cluster_size:
        raise QmpError("bitmaps_ext: invalid bitmap directory offset")
    if size > MAX_BITMAP_DIRECTORY_BYTES:
        raise QmpError(
            f"bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size "
            f"({MAX_BITMAP_DIRECTORY_BYTES})"
        )
    header.bitmaps = BitmapsExtension(count, size, offset)


def feature_names(header: Header, data: bytes) -> dict[int, str]:
    """Return the names of incompatible feature bits that the image itself brings."""
    names = {bit: name for kind, bit, name in FEATURE_NAMES if kind == 0}
    position = header.header_length
    while position + _EXTENSION.size <= len(data):
        magic, length = _EXTENSION.unpack_from(data, position)
        position += _EXTENSION.size
        if magic == EXTENSION_END or length > len(data) - position:
            break
        if magic == EXTENSION_FEATURE_NAMES:
            table = data[position : position + length]
            table += bytes(-length % _FEATURE.size)  # the last name may be cut off
            for kind, bit, name in _FEATURE.iter_unpack(table):
                if kind == 0 and bit < 64 and name[0]:
                    names[bit] = _text(name)
        position += -(-length // 8) * 8
    return names


def unsupported_features(mask: int, names: dict[int, str]) -> QmpError:
    """Return QEMU's error for incompatible feature bits that are not known."""
    parts = [name for bit, name in sorted(names.items()) if mask >> bit & 1]
    rest = mask & ~sum(1 << bit for bit in names)
    if rest:
        parts.append(f"Unknown incompatible feature: {rest:x}")
    return QmpError(f"Unsupported qcow2 feature(s): {', '.join(parts)}")


def validate_table(
    header: Header, name: str, offset: int, entries: int, *, limit: int, entry_size: int = 8
) -> None:
    """Check where a table lies and how large it is; raises ``QmpError`` in QEMU's words."""
    if entries > limit // entry_size:
        raise QmpError(f"{name} too large")
    if offset > MAX_OFFSET - entries * entry_size or offset % header.cluster_size:
        raise QmpError(f"{name} offset invalid")


def pack_header(header: Header) -> bytes:
    """Return the first cluster; raises ``OSError(ENOSPC)`` if it does not all fit."""
    parts = [b"\0" * _header_length(header)]
    if header.backing_format is not None:
        parts.append(_pack_extension(EXTENSION_BACKING_FORMAT, _bytes(header.backing_format)))
    if header.data_file is not None and header.has_data_file:
        parts.append(_pack_extension(EXTENSION_DATA_FILE, _bytes(header.data_file)))
    if header.version >= 3 and header.cluster_size >= SMALLEST_CLUSTER_WITH_NAMES:
        names = b"".join(_FEATURE.pack(kind, bit, n.encode()) for kind, bit, n in FEATURE_NAMES)
        parts.append(_pack_extension(EXTENSION_FEATURE_NAMES, names))
    if header.bitmaps is not None:
        ext = header.bitmaps
        packed = _BITMAPS.pack(ext.count, 0, ext.directory_size, ext.directory_offset)
        parts.append(_pack_extension(EXTENSION_BITMAPS, packed))
    parts += [_pack_extension(magic, data) for magic, data in header.unknown_extensions]
    parts.append(_pack_extension(EXTENSION_END, b""))
    backing_offset, name = 0, b""
    if header.backing_file is not None:
        name = _bytes(header.backing_file)
        backing_offset = sum(map(len, parts))
    cluster = bytearray(b"".join(parts) + name)
    if len(cluster) > header.cluster_size:
        raise os_error(errno.ENOSPC)
    _pack_fixed(header, cluster, backing_offset, len(name))
    return bytes(cluster.ljust(header.cluster_size, b"\0"))


def _header_length(header: Header) -> int:
    return _FIXED.size if header.version == 2 else HEADER_SIZE + len(header.unknown_fields)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _pack_extension(magic: int, data: bytes) -> bytes:
    return _EXTENSION.pack(magic, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def _pack_fixed(header: Header, cluster: bytearray, backing_offset: int, name_length: int) -> None:
    _FIXED.pack_into(
        cluster, 0, MAGIC, header.version, backing_offset, name_length, header.cluster_bits,
        header.size, header.crypt_method, header.l1_size, header.l1_table_offset,
        header.refcount_table_offset, header.refcount_table_clusters, header.snapshot_count,
        header.snapshots_offset,
    )  # fmt: skip
    if header.version == 2:
        return
    _VERSION_3.pack_into(
        cluster, _FIXED.size, header.incompatible, header.compatible, header.autoclear,
        header.refcount_order, _header_length(header),
    )  # fmt: skip
    cluster[_FIXED.size + _VERSION_3.size] = header.compression_type
    cluster[HEADER_SIZE : HEADER_SIZE + len(header.unknown_fields)] = header.unknown_fields


def cluster_range(offset: int, length: int, bits: int) -> tuple[int, int]:
    """Return first and number of the clusters in which a range of the file lies."""
    first = offset >> bits
    return first, ((offset + length - 1) >> bits) - first + 1
