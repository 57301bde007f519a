"""What pyroaring lacks: its two kinds as one, the next reset bit, runs of set bits.

Invariant: nothing here loops over bits in Python. Runs begin and end where the bitmap differs from
itself shifted by one, which is computed in C.

QEMU's counterpart: ``util/hbitmap.c`` (hbitmap_next_dirty, hbitmap_next_zero).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator

from pyroaring import BitMap, BitMap64

from blkxact.runtime.steps import Steps

from . import lanes

Bits = BitMap | BitMap64

NARROW_LIMIT = 1 << 32
"""A 32-bit bitmap holds so many bits; it is the faster kind where it is enough."""
WINDOW_BITS = 1 << 20
"""So many bits are worked on at a time; that bounds the time of a step and the memory it takes."""
UNION_BITS = 8 * WINDOW_BITS
"""The same where they are only combined, which is fast."""
LONG_RUNS = 16
"""Runs of so many bits are cheaper taken one by one in Python than bit by bit in C."""

_WIDE_HEADER = struct.Struct("<QI")
"""What a serialized 64-bit bitmap has before its only 32-bit one: count, number of the first."""


def empty_bits(count: int) -> Bits:
    """Return an empty bitmap of the kind that holds ``count`` bits."""
    return BitMap() if count <= NARROW_LIMIT else BitMap64()


def fitted(bits: Bits, count: int) -> Bits:
    """Return bits, all below ``count``, in the kind of bitmap that holds ``count`` bits."""
    if isinstance(bits, BitMap):
        return bits if count <= NARROW_LIMIT else _widen(bits)
    return _narrow(bits) if count <= NARROW_LIMIT else bits


def cut(bits: Bits, first: int, stop: int) -> BitMap:
    """Return the bits ``[first, stop)``, counted from ``first``."""
    if isinstance(bits, BitMap):
        return (bits & BitMap(range(first, stop))).shift(-first)
    return _narrow((bits & BitMap64(range(first, stop))).shift(-first))


def paste(bits: Bits, first: int, part: BitMap) -> None:
    """Set those bits that are set in ``part``, whose bits count from ``first``."""
    if isinstance(bits, BitMap):
        bits |= part.shift(first)
    else:
        bits |= _widen(part).shift(first)


def add_runs(bits: Bits, shift: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Set every bit, of 2^``shift`` bytes, that one of the ``(offset, length)`` ranges touches."""
    single = array("I" if isinstance(bits, BitMap) else "Q")
    for offset, length in ranges:
        first = offset >> shift
        stop = (offset + length - 1 >> shift) + 1
        if stop - first == 1:
            single.append(first)
        else:
            bits.add_range(first, stop)
    if single:
        unite(bits, type(bits)(single))


def unite(bits: Bits, more: Bits) -> None:
    """Set those bits that are set in ``more``, which is of the same kind."""
    if isinstance(bits, BitMap):
        assert isinstance(more, BitMap)
        bits |= more
    else:
        assert isinstance(more, BitMap64)
        bits |= more


def next_set(bits: Bits, first: int, stop: int) -> int | None:
    """Return the first set bit in ``[first, stop)``."""
    if first >= stop:
        return None
    try:
        bit = bits.next_set_bit(first)
    except ValueError:  # pyroaring's way to say that there is none
        return None
    return bit if bit < stop else None


def next_reset(bits: Bits, first: int, stop: int) -> int:
    """Return the first bit in ``[first, stop)`` that is not set, or ``stop``."""
    low, step = first, 1  # all of [first, low) is set
    while low < stop and bits.contains_range(low, min(low + step, stop)):
        low = min(low + step, stop)
        step *= 2
    high = min(low + step, stop)  # [low, high) has a reset bit, or is empty
    while high - low > 1:
        middle = (low + high) // 2
        if bits.contains_range(low, middle):
            low = middle
        else:
            high = middle
    return low


def borders(bits: Bits, first: int, stop: int) -> BitMap:
    """Return where in ``[first, stop)`` runs of set bits begin and end by turns, from ``first``."""
    window = cut(bits, first, stop)
    return window ^ window.shift(1)


def runs(bits: Bits, shift: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs of set bits in bytes ``[start, end)`` as ``(offset, length)``, longest possible.

    A bit stands for 2^``shift`` bytes. ``start`` begins a bit; ``end`` may cut one.
    """
    stop = -(-end >> shift)
    position = next_set(bits, start >> shift, stop)
    while position is not None:
        edge = min(position + WINDOW_BITS, stop)
        found = borders(bits, position, edge).to_array()
        until, final = position + found.pop(), position + found.pop()
        numbers = iter(found)
        for first, after in zip(numbers, numbers, strict=True):
            yield position + first << shift, after - first << shift
        if until == edge:
            until = next_reset(bits, edge, stop)
        yield final << shift, min(until << shift, end) - (final << shift)
        position = next_set(bits, until, stop)


def add_coarser(bits: Bits, source: Bits, by: int, stop: int) -> Steps[None]:
    """Set each bit that stands for 2^``by`` bits of ``source`` of which one is set, in steps.

    ``source`` is looked at up to bit ``stop`` in windows, each when its step comes.
    """
    window = WINDOW_BITS if by else UNION_BITS
    start = next_set(source, 0, stop)
    while start is not None:
        start -= start % window
        edge = min(start + window, stop)
        part = cut(source, start, edge)
        paste(bits, start >> by, _coarser(part, by) if by else part)
        yield
        start = next_set(source, edge, stop)


def _coarser(bits: BitMap, by: int) -> BitMap:
    """Return the bits that stand for 2^``by`` bits of which one is set."""
    firsts = bits - bits.shift(1)
    if len(bits) > LONG_RUNS * len(firsts):
        result = BitMap()
        for first, length in runs(bits, 0, 0, WINDOW_BITS):
            result.add_range(first >> by, (first + length - 1 >> by) + 1)
        return result
    return BitMap(lanes.shifted_down(bits.to_array(), by))


def _narrow(bits: BitMap64) -> BitMap:
    """Return the same bits, all below 2^32, in a 32-bit bitmap."""
    return BitMap.deserialize(bits.serialize()[_WIDE_HEADER.size :]) if bits else BitMap()


def _widen(bits: BitMap) -> BitMap64:
    """Return the same bits in a 64-bit bitmap."""
    return BitMap64.deserialize(_WIDE_HEADER.pack(1, 0) + bits.serialize()) if bits else BitMap64()
