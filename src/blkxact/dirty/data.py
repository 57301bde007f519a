"""Bits as they lie in files: a roaring bitmap to bytes, least significant bit first, and back.

Invariant: no loop over bits in Python. The portable roaring format stores a crowded container
exactly as the file does: 65536 bits as 8 KiB, least significant bit first. So a thin bitmap is made
crowded: it is combined by exclusive or with a pattern that has every other bit set, stored as plain
bits, and the pattern is taken off these, and the other way round.

Sources: ``docs/interop/qcow2.txt``, "Bitmap data", and the RoaringFormatSpec ("portable" layout).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from pyroaring import BitMap

from blkxact.runtime.steps import Steps

from . import roaring
from .roaring import Bits

CONTAINER_BITS: Final = 1 << 16
CONTAINER_BYTES: Final = CONTAINER_BITS // 8
ARRAY_LIMIT: Final = 4096
"""A container with more bits than that, and not in runs, is stored as plain bits."""
WINDOW: Final = 256 << 10
"""Bytes that are made at a time where smaller pieces are wanted, or none in particular."""

_COOKIE_PLAIN: Final = 12346
_HEAD: Final = struct.Struct("<II")
"""Cookie and number of containers. Of each follow its key and, less one, the number of its bits;
then where it is stored."""
_HEAD_BYTES_EACH: Final = 8


class _Pattern(NamedTuple):
    """Bits that are combined with thin ones: half of all, and not in runs."""

    bits: tuple[int, int]
    """Which two of four are set."""
    table: bytes
    """Takes the pattern from plain bits, or puts it on them."""


_PATTERNS: Final = (
    _Pattern((1, 3), bytes(value ^ 0b10101010 for value in range(256))),
    _Pattern((2, 3), bytes(value ^ 0b11001100 for value in range(256))),
)
"""What looks like one of the two is far from the other."""


@cache
def _crowd(pattern: _Pattern, count: int) -> BitMap:
    """Return the pattern in ``count`` containers."""
    one, other = (BitMap(range(bit, count * CONTAINER_BITS, 4)) for bit in pattern.bits)
    return one | other


def serialize(bits: Bits, count: int, position: int, length: int) -> bytes:
    """Return ``length`` bytes from byte ``position`` on, zero beyond bit ``count``."""
    stop = min((position + length) * 8, count)
    return pack(roaring.cut(bits, min(position * 8, stop), stop), length)


def pieces(bits: Bits, count: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``(index, data)`` of those pieces of ``length`` bytes that have a bit set.

    The bits are looked at in windows, each when the iteration arrives there.
    """
    each = max(1, min(WINDOW, count // 8) // length)
    window = each * length
    zeroes = bytes(length)
    bit = roaring.next_set(bits, 0, count)
    while bit is not None:
        index = bit // (window * 8)
        data = serialize(bits, count, index * window, window)
        for number in range(each):
            piece = data[number * length : (number + 1) * length]
            if piece != zeroes:
                yield index * each + number, piece
        bit = roaring.next_set(bits, (index + 1) * window * 8, count)


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


def sha256(bits: Bits, count: int) -> Steps[str]:
    """Return the digest of the bits in whole 64-bit words, at least one, in steps."""
    length = max(1, -(-count // 64)) * 8
    window = min(length, WINDOW)
    zeroes = bytes(window)
    import hashlib  # noqa: PLC0415 - it loads OpenSSL, and only tests ask

    digest = hashlib.sha256()
    position = 0
    for index, piece in pieces(bits, count, window):
        for _ in range(position, index):
            digest.update(zeroes)
            yield
        digest.update(piece[: length - index * window])
        position = index + 1
        yield
    for rest in range(length - position * window, 0, -window):
        digest.update(zeroes[:rest])
        yield
    return digest.hexdigest()


def pack(bits: BitMap, length: int) -> bytes:
    """Return ``length`` bytes that hold the bits, all of which are below ``length`` * 8."""
    return _plain(bits, -(-length // CONTAINER_BYTES))[:length]


def unpack(data: bytes | bytearray | memoryview) -> BitMap:
    """Return the bits that ``data`` holds."""
    count = -(-len(data) // CONTAINER_BYTES)
    return _from_plain(bytes(data).ljust(count * CONTAINER_BYTES, b"\0"), count)


def _plain(bits: BitMap, count: int) -> bytes:
    """Return the plain bits of ``count`` containers."""
    head = _HEAD.size + count * _HEAD_BYTES_EACH
    for pattern in _PATTERNS:
        data = (bits ^ _crowd(pattern, count)).serialize()
        if len(data) == head + count * CONTAINER_BYTES:  # all are crowded
            return data[head:].translate(pattern.table)
    half = count // 2  # one looks like the first pattern and one like the second
    middle, end = half * CONTAINER_BITS, count * CONTAINER_BITS
    return _plain(roaring.cut(bits, 0, middle), half) + _plain(
        roaring.cut(bits, middle, end), count - half
    )


def _from_plain(data: bytes, count: int) -> BitMap:
    """Return the bits of ``count`` containers."""
    for pattern in _PATTERNS:
        plain = data.translate(pattern.table)
        crowds = [
            int.from_bytes(plain[start : start + CONTAINER_BYTES], "little").bit_count()
            for start in range(0, len(plain), CONTAINER_BYTES)
        ]
        if min(crowds, default=CONTAINER_BITS) > ARRAY_LIMIT:
            return BitMap.deserialize(_header(crowds) + plain) ^ _crowd(pattern, count)
    half = count // 2
    middle = half * CONTAINER_BYTES
    high = _from_plain(data[middle:], count - half)
    return _from_plain(data[:middle], half) | high.shift(half * CONTAINER_BITS)


def _header(crowds: list[int]) -> bytes:
    """Return what goes before plain containers with so many bits each, one after the other."""
    count = len(crowds)
    heads = [number for key, crowd in enumerate(crowds) for number in (key, crowd - 1)]
    start = _HEAD.size + count * _HEAD_BYTES_EACH
    places = range(start, start + count * CONTAINER_BYTES, CONTAINER_BYTES)
    return _HEAD.pack(_COOKIE_PLAIN, count) + struct.pack(f"<{2 * count}H{count}I", *heads, *places)
