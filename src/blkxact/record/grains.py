"""Which parts of a disk: ranges, as coarse as a record of bounded size needs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

MIN_GRAIN: Final = 64 << 10
"""Bytes."""
MAX_GRAINS: Final = 1 << 14
"""Grains of a disk, whatever its size."""


def grain_of(size: int) -> int:
    """Return the bytes of a grain on a disk of ``size`` bytes: a power of 2."""
    grain = MIN_GRAIN
    while size > grain * MAX_GRAINS:
        grain *= 2
    return grain


def ranges_of(grains: Iterable[int], grain: int, size: int) -> list[list[int]]:
    """Return the ranges that grains, given by number, cover."""
    ranges: list[list[int]] = []
    for number in sorted(grains):
        offset = number * grain
        length = min(grain, size - offset)
        if ranges and sum(ranges[-1]) == offset:
            ranges[-1][1] += length
        else:
            ranges.append([offset, length])
    return ranges


def dirty_ranges(bitmap: DirtyBitmap, grain: int) -> list[list[int]]:
    """Return where a bitmap is dirty; takes a step for each dirty grain."""
    grains = []
    offset = bitmap.next_dirty(0)
    while offset is not None:
        grains.append(offset // grain)
        after = (grains[-1] + 1) * grain
        offset = bitmap.next_dirty(after) if after < bitmap.size else None
    return ranges_of(grains, grain, bitmap.size)
