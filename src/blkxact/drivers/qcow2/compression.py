"""Compressed clusters: what packs and unpacks them, and how an L2 entry says where they lie.

zlib is Python's. zstd is Python's too from 3.14 on; before, the same module comes from a package of
its own. It is loaded when the first image needs it.

QEMU's counterpart: ``block/qcow2-threads.c``; specification, "Compressed Clusters Descriptor".
"""

from __future__ import annotations

import errno
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from blkxact.block.types import SECTOR
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer

from .layout import (
    COMPRESSED,
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    INCOMPATIBLE_COMPRESSION,
    Header,
    cluster_range,
)

_ZLIB_WINDOW = -12
"""Raw deflate with a window of 4 KiB."""
_ZLIB_MEMORY = 9


def validate(header: Header) -> None:
    """Refuse a compression type that nobody knows; raises ``QmpError``."""
    if header.compression_type not in (COMPRESSION_ZLIB, COMPRESSION_ZSTD):
        raise QmpError(f"qcow2: unknown compression type: {header.compression_type}")
    flagged = bool(header.incompatible & INCOMPATIBLE_COMPRESSION)
    if flagged and header.compression_type == COMPRESSION_ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must not be set")
    if not flagged and header.compression_type != COMPRESSION_ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must be set")


# Descriptors


def descriptor(offset: int, length: int, cluster_bits: int) -> int:
    """Return the L2 entry of a compressed cluster whose bytes lie at ``offset``."""
    shift = 62 - (cluster_bits - 8)
    sectors = (offset + length - 1) // SECTOR - offset // SECTOR
    return COMPRESSED | sectors << shift | offset


def max_offset(cluster_bits: int) -> int:
    """Return the last byte of the file that a descriptor can lead to."""
    return min((1 << (62 - (cluster_bits - 8))) - 1, (1 << 56) - 1)


def locate(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return offset and length in the file of the bytes that hold a compressed cluster."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = (entry >> shift & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * SECTOR - offset % SECTOR


def host_clusters(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return first and number of the file's clusters that hold a part of a compressed cluster."""
    offset, length = locate(entry, cluster_bits)
    return cluster_range(offset, length, cluster_bits)


# Packing. The functions hold no lock of Python's while they work: they are for threads.


def compress(kind: int, clusters: Sequence[Buffer]) -> list[bytes | None]:
    """Return the clusters packed; None for one that would not get smaller."""
    packed: list[bytes | None] = []
    for cluster in clusters:
        if kind == COMPRESSION_ZSTD:
            data = _zstd().compress(cluster)
        else:
            packer = zlib.compressobj(wbits=_ZLIB_WINDOW, memLevel=_ZLIB_MEMORY)
            data = packer.compress(cluster) + packer.flush()
        packed.append(data if len(data) < len(cluster) else None)
    return packed


def decompress(kind: int, data: Buffer, cluster_size: int) -> bytes:
    """Return the cluster that ``data`` begins with; raises ``OSError(EIO)`` if there is none."""
    if kind == COMPRESSION_ZSTD:
        cluster = _decompress_zstd(data, cluster_size)
    else:
        try:
            cluster = zlib.decompressobj(_ZLIB_WINDOW).decompress(data, cluster_size)
        except zlib.error as error:
            raise _broken() from error
    if len(cluster) != cluster_size:
        raise _broken()
    return cluster


def decompress_all(kind: int, packed: Sequence[Buffer], cluster_size: int) -> list[bytes]:
    """Return the clusters of several pieces; see ``decompress``."""
    return [decompress(kind, data, cluster_size) for data in packed]


def _decompress_zstd(data: Buffer, cluster_size: int) -> bytes:
    """Unpack frames until the cluster is full: sectors after the last frame hold anything."""
    zstd = _zstd()
    parts: list[bytes] = []
    missing = cluster_size
    while missing and data:
        frame = zstd.ZstdDecompressor()
        try:
            parts.append(frame.decompress(data, missing))
        except zstd.ZstdError as error:
            raise _broken() from error
        missing -= len(parts[-1])
        # Of a frame that has not ended there is no more to be had.
        data = frame.unused_data if frame.eof else b""
    return b"".join(parts)


def _zstd() -> Any:
    """Return the module."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - few images need it
    else:
        from backports import zstd  # noqa: PLC0415 - few images need it
    return zstd


def _broken() -> OSError:
    return os_error(errno.EIO)
