"""Reference counts of 1 to 64 bits, on disk and as arrays.

In memory every count is one element of an ``array``; widths below a byte are spread out to a byte
each. On disk the least significant bits of a byte come first, wider counts are big-endian
(specification, "Refcount blocks").

QEMU's counterpart: ``get_refcount_ro0`` and so on in ``block/qcow2-refcount.c``.
"""

from __future__ import annotations

from array import array
from functools import cache

from blkxact.storage.api import Buffer

from .metadata_file import SWAP

_TYPECODES = ("B", "B", "B", "B", "H", "I", "Q")


def maximum(order: int) -> int:
    """Return the largest count of ``2 ** order`` bits."""
    return (1 << (1 << order)) - 1


def zero_counts(order: int, number: int) -> array[int]:
    """Return ``number`` counts of zero."""
    typecode = _TYPECODES[order]
    return array(typecode, bytes(array(typecode).itemsize * number))


def same_counts(order: int, value: int, number: int) -> array[int]:
    """Return ``number`` counts of ``value``."""
    return array(_TYPECODES[order], [value]) * number


@cache
def _spread(order: int) -> tuple[bytes, ...]:
    """Return, for each byte, the counts in it."""
    bits = 1 << order
    mask = (1 << bits) - 1
    return tuple(bytes(byte >> shift & mask for shift in range(0, 8, bits)) for byte in range(256))


def unpack(order: int, data: Buffer) -> array[int]:
    """Return the counts of a refcount block's bytes."""
    if order < 3:
        spread = _spread(order)
        return array("B", b"".join([spread[byte] for byte in bytes(data)]))
    counts = array(_TYPECODES[order], bytes(data))
    if SWAP:
        counts.byteswap()
    return counts


def pack(order: int, counts: array[int], first: int, end: int) -> tuple[int, bytes]:
    """Return position and bytes on disk of the counts ``[first, end)``, whole bytes."""
    if order < 3:
        in_byte = 8 >> order
        first -= first % in_byte
        end = min(-(-end // in_byte) * in_byte, len(counts))
        bits = 1 << order
        packed = bytearray((end - first) // in_byte)
        for place in range(in_byte):
            for index, count in enumerate(counts[first + place : end : in_byte]):
                packed[index] |= count << place * bits
        return first // in_byte, bytes(packed)
    part = counts[first:end]
    if SWAP:
        part.byteswap()
    return first << (order - 3), part.tobytes()


def find_zero(counts: array[int], start: int) -> int:
    """Return the first index from ``start`` on whose count is zero, or the length."""
    if start < len(counts) and not counts[start]:
        return start
    size = counts.itemsize
    data = memoryview(counts).cast("B")[start * size :].tobytes()
    pattern = bytes(size)
    at = data.find(pattern)
    while at >= 0 and at % size:  # the zero bytes of two neighbours
        at = data.find(pattern, at + 1)
    return len(counts) if at < 0 else start + at // size


def zero_run(counts: array[int], start: int, limit: int) -> int:
    """Return how many counts from ``start`` on are zero, at most ``limit``."""
    limit = min(limit, len(counts) - start)
    step, done = 16, 0
    while done < limit:
        part = counts[start + done : start + min(done + step, limit)]
        if any(part):
            return done + next(index for index, count in enumerate(part) if count)
        done += len(part)
        step *= 4
    return limit
