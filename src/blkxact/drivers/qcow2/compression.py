"""Compressed clusters: where they lie and what unpacks them.

zlib is Python's; zstd is taken from Python (3.14 and later) or from the system's libzstd. Where
neither is there, images compressed with it are refused at opening, as a QEMU without zstd does.

QEMU's counterpart: ``block/qcow2-threads.c``; specification, "Compressed Clusters Descriptor".
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import zlib
from functools import cache
from typing import Any

from blkxact.errors import QmpError

from .layout import COMPRESSION_ZLIB, COMPRESSION_ZSTD, INCOMPATIBLE_COMPRESSION, SECTOR, Header

_ZLIB_WINDOW = -12
"""Raw deflate with a window of 4 KiB."""


def validate(header: Header) -> None:
    """Refuse a compression type that cannot be served; raises ``QmpError``."""
    if header.compression_type == COMPRESSION_ZSTD:
        known = _zstd() is not None
    else:
        known = header.compression_type == COMPRESSION_ZLIB
    if not known:
        raise QmpError(f"qcow2: unknown compression type: {header.compression_type}")
    flagged = bool(header.incompatible & INCOMPATIBLE_COMPRESSION)
    if flagged and header.compression_type == COMPRESSION_ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must not be set")
    if not flagged and header.compression_type != COMPRESSION_ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must be set")


def locate(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return offset and length in the file of the bytes that hold a compressed cluster."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = (entry >> shift & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * SECTOR - offset % SECTOR


def host_clusters(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return first and number of the file's clusters that hold a part of a compressed cluster."""
    offset, length = locate(entry, cluster_bits)
    first = offset >> cluster_bits
    return first, ((offset + length - 1) >> cluster_bits) - first + 1


def decompress(kind: int, data: bytes, cluster_size: int) -> bytes:
    """Return the cluster that ``data`` begins with; raises ``OSError(EIO)`` if there is none."""
    try:
        if kind == COMPRESSION_ZSTD:
            cluster = _decompress_zstd(data, cluster_size)
        else:
            cluster = zlib.decompressobj(_ZLIB_WINDOW).decompress(data, cluster_size)
    except zlib.error as error:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
    if len(cluster) != cluster_size:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return cluster


class _InBuffer(ctypes.Structure):
    _fields_ = (("src", ctypes.c_char_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


class _OutBuffer(ctypes.Structure):
    _fields_ = (("dst", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


@cache
def _zstd() -> Any:
    """Return the system's libzstd, or None."""
    name = ctypes.util.find_library("zstd") or "libzstd.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    library.ZSTD_decompressStream.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_OutBuffer),
        ctypes.POINTER(_InBuffer),
    ]
    library.ZSTD_isError.argtypes = [ctypes.c_size_t]
    library.ZSTD_isError.restype = ctypes.c_uint
    return library


def _decompress_zstd(data: bytes, cluster_size: int) -> bytes:
    """Unpack frames until the cluster is full: sectors behind the last frame hold anything."""
    library = _zstd()
    cluster = ctypes.create_string_buffer(cluster_size)
    out = _OutBuffer(ctypes.cast(cluster, ctypes.c_void_p), cluster_size, 0)
    source = _InBuffer(data, len(data), 0)
    stream = library.ZSTD_createDStream()
    try:
        while out.pos < cluster_size:
            before = (source.pos, out.pos)
            result = library.ZSTD_decompressStream(stream, ctypes.byref(out), ctypes.byref(source))
            if library.ZSTD_isError(result) or before == (source.pos, out.pos):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
    finally:
        library.ZSTD_freeDStream(stream)
    return cluster.raw
