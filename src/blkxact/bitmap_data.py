"""Bits as they lie in files: a roaring bitmap to bytes, least significant bit first, and back.

Law: the cost follows the dirty data and is paid in C, because the portable roaring format stores a
crowded container exactly as the file does: 65536 bits as 8 KiB, least significant bit first. A
thin container (at most 4096 bits, stored as numbers) becomes crowded when it is complemented, so
two complements spare a loop over single bits.

Sources: ``docs/interop/qcow2.txt``, "Bitmap data", and the RoaringFormatSpec ("portable" layout).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from pyroaring import BitMap

from . import roaring
from .roaring import Bits

CONTAINER_BITS = 1 << 16
CONTAINER_BYTES = CONTAINER_BITS // 8
ARRAY_LIMIT = 4096
"""A container with more bits than that, and not in runs, is stored as plain bits."""
LOOP_LIMIT = 32
"""Setting so many bits one by one is cheaper than complementing the bitmap."""

_HASH_PIECE = 1 << 16
_COOKIE_RUNS = 12347
_COOKIE_PLAIN = 12346
_OFFSETS_FROM = 4
"""A bitmap that has run containers has a table of offsets if it has at least so many containers."""
_COMPLEMENT = bytes(255 - byte for byte in range(256))


class Kind(Enum):
    """How a container is stored."""

    ARRAY = auto()
    PLAIN = auto()
    RUNS = auto()


class Container(NamedTuple):
    """One container of a serialized bitmap: the bits from ``key`` * 65536 on."""

    key: int
    kind: Kind
    body: memoryview


def serialize(bits: Bits, count: int, position: int, length: int) -> bytes:
    """Return ``length`` bytes from byte ``position`` on, zero beyond bit ``count``."""
    stop = min((position + length) * 8, count)
    return pack(roaring.cut(bits, min(position * 8, stop), stop), length)


def pieces(bits: Bits, count: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``(index, data)`` of those pieces of ``length`` bytes that have a bit set."""
    bit = roaring.next_set(bits, 0, count)
    while bit is not None:
        index = bit // (length * 8)
        yield index, serialize(bits, count, index * length, length)
        bit = roaring.next_set(bits, (index + 1) * length * 8, count)


def deserialize(
    bits: Bits, count: int, position: int, data: bytes | bytearray | memoryview
) -> None:
    """Replace the bits from byte ``position`` on, up to bit ``count``."""
    first = position * 8
    stop = min(first + len(data) * 8, count)
    if first < stop:
        part = unpack(data)
        part.remove_range(stop - first, len(data) * 8)
        bits.remove_range(first, stop)
        roaring.paste(bits, first, part)


def sha256(bits: Bits, count: int) -> str:
    """Return the digest of the bits in whole 64-bit words, at least one."""
    length = max(1, -(-count // 64)) * 8
    zeroes = bytes(_HASH_PIECE)
    digest = hashlib.sha256()
    position = 0
    for index, piece in pieces(bits, count, _HASH_PIECE):
        for _ in range(position, index):
            digest.update(zeroes)
        digest.update(piece[: length - index * _HASH_PIECE])
        position = index + 1
    for rest in range(length - position * _HASH_PIECE, 0, -_HASH_PIECE):
        digest.update(zeroes[:rest])
    return digest.hexdigest()


def pack(bits: BitMap, length: int) -> bytes:
    """Return ``length`` bytes that hold the bits, all of which are below ``length`` * 8."""
    data = bytearray(-(-length // CONTAINER_BYTES) * CONTAINER_BYTES)
    complements: dict[int, memoryview] | None = None
    for container in _containers(bits.serialize()):
        start = container.key * CONTAINER_BYTES
        stop = start + CONTAINER_BYTES
        if container.kind is Kind.PLAIN:
            data[start:stop] = container.body
        elif container.kind is Kind.RUNS:
            _set_runs(data, start, container.body)
        elif len(container.body) <= 2 * LOOP_LIMIT:
            for (bit,) in struct.iter_unpack("<H", container.body):
                data[start + (bit >> 3)] |= 1 << (bit & 7)
        else:
            if complements is None:
                complements = _complements(bits)
            data[start:stop] = bytes(complements[container.key]).translate(_COMPLEMENT)
    del data[length:]
    return bytes(data)


def unpack(data: bytes | bytearray | memoryview) -> BitMap:
    """Return the bits that ``data`` holds."""
    view = memoryview(data)
    crowded: dict[int, bytes] = {}
    thin: dict[int, bytes] = {}
    result = BitMap()
    for start in range(0, len(view), CONTAINER_BYTES):
        piece = bytes(view[start : start + CONTAINER_BYTES]).ljust(CONTAINER_BYTES, b"\0")
        count = int.from_bytes(piece, "little").bit_count()
        key = start // CONTAINER_BYTES
        if count == CONTAINER_BITS:
            result.add_range(key * CONTAINER_BITS, (key + 1) * CONTAINER_BITS)
        elif count > ARRAY_LIMIT:
            crowded[key] = piece
        elif count:
            thin[key] = piece.translate(_COMPLEMENT)
    result |= _from_plain(crowded)
    complement = _from_plain(thin)
    for key in thin:
        complement.flip_inplace(key * CONTAINER_BITS, (key + 1) * CONTAINER_BITS)
    result |= complement
    return result


def _containers(data: bytes) -> Iterator[Container]:
    """Take a portable serialization apart."""
    view = memoryview(data)
    (cookie,) = struct.unpack_from("<I", view)
    run_flags = 0
    if cookie & 0xFFFF == _COOKIE_RUNS:
        count = (cookie >> 16) + 1
        flag_bytes = -(-count // 8)
        run_flags = int.from_bytes(view[4 : 4 + flag_bytes], "little")
        position = 4 + flag_bytes
        has_offsets = count >= _OFFSETS_FROM
    else:
        assert cookie == _COOKIE_PLAIN, f"roaring cookie {cookie:#x}"
        (count,) = struct.unpack_from("<I", view, 4)
        position = 8
        has_offsets = True
    heads = struct.unpack_from(f"<{2 * count}H", view, position)
    position += 4 * count + (4 * count if has_offsets else 0)
    for index in range(count):
        key, cardinality = heads[2 * index], heads[2 * index + 1] + 1
        if run_flags >> index & 1:
            (runs,) = struct.unpack_from("<H", view, position)
            kind, length = Kind.RUNS, 4 * runs
            position += 2
        elif cardinality > ARRAY_LIMIT:
            kind, length = Kind.PLAIN, CONTAINER_BYTES
        else:
            kind, length = Kind.ARRAY, 2 * cardinality
        yield Container(key, kind, view[position : position + length])
        position += length


def _complements(bits: BitMap) -> dict[int, memoryview]:
    """Return the complements of the thin containers, as plain bits."""
    end = (bits.max() // CONTAINER_BITS + 1) * CONTAINER_BITS
    return {
        container.key: container.body
        for container in _containers(bits.flip(0, end).serialize())
        if container.kind is Kind.PLAIN
    }


def _from_plain(containers: dict[int, bytes]) -> BitMap:
    """Return the bitmap whose containers are these plain bits, each more than 4096."""
    if not containers:
        return BitMap()
    count = len(containers)
    heads = b"".join(
        struct.pack("<HH", key, int.from_bytes(body, "little").bit_count() - 1)
        for key, body in containers.items()
    )
    first = 8 + 8 * count
    offsets = struct.pack(
        f"<{count}I", *range(first, first + count * CONTAINER_BYTES, CONTAINER_BYTES)
    )
    return BitMap.deserialize(
        struct.pack("<II", _COOKIE_PLAIN, count) + heads + offsets + b"".join(containers.values())
    )


def _set_runs(data: bytearray, start: int, body: memoryview) -> None:
    """Set runs of bits, given as pairs (first, length - 1), from byte ``start`` on."""
    pairs = iter(struct.unpack(f"<{len(body) // 2}H", body))
    for first, more in zip(pairs, pairs, strict=True):
        last = first + more
        low, high = start + (first >> 3), start + (last >> 3)
        head, tail = 0xFF << (first & 7) & 0xFF, 0xFF >> (7 - (last & 7))
        if low == high:
            data[low] |= head & tail
        else:
            data[low] |= head
            data[low + 1 : high] = b"\xff" * (high - low - 1)
            data[high] |= tail
