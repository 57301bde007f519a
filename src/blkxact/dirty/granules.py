"""Which granules of a disk are dirty: the bits of a bitmap, by the bytes of the disk.

Invariants:

* Offsets and lengths are bytes of the disk. A range that touches a granule touches all of it.
* What changes or reads many bits can be had in steps of a millisecond or so.
* Nothing is known here of what a bitmap is for: that is ``bitmap.py``.

``docs/adr/0004-bitmap-representation.md`` explains why the bits are a roaring bitmap and what that
costs.

QEMU's counterpart: ``util/hbitmap.c``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain, islice

from blkxact.runtime.steps import Steps, at_once

from . import data as bitmap_data
from . import lanes, roaring
from .roaring import Bits

MIN_GRANULARITY = 512
LEAST_DEFAULT_GRANULARITY = 4096
DEFAULT_GRANULARITY = 65536
RUNS_AT_ONCE = 512
"""Runs that a step of a union sets one by one."""


_NARROW, _WIDE = "I", "Q"
"""Type codes of arrays of 32 and of 64 bits."""


def _code_for(length: int) -> str:
    return _NARROW if length < 1 << 32 else _WIDE


def default_granularity(cluster_size: int | None) -> int:
    """Return the granularity of a bitmap that names none: the cluster size within bounds.

    QEMU's counterpart: bdrv_get_default_bitmap_granularity() in ``block/dirty-bitmap.c``.
    """
    if not cluster_size:
        return DEFAULT_GRANULARITY
    return min(max(cluster_size, LEAST_DEFAULT_GRANULARITY), DEFAULT_GRANULARITY)


class Granules:
    """Dirty granules of a disk of ``size`` bytes, a bit for each ``granularity`` bytes.

    ``read_only`` bits do not change. ``bits`` is for the bitmap modules alone.
    """

    def __init__(self, size: int, granularity: int) -> None:
        assert granularity >= MIN_GRANULARITY, f"granularity {granularity}"
        assert granularity & (granularity - 1) == 0, f"granularity {granularity}"
        assert size >= 0, f"size {size}"
        self.size = size
        self.granularity = granularity
        self.read_only = False
        self._shift = granularity.bit_length() - 1
        self._bit_count = -(-size // granularity)
        self.bits: Bits = roaring.empty_bits(self._bit_count)

    def count(self) -> int:
        """Return the dirty bytes in whole granules."""
        return len(self.bits) << self._shift

    def mark(self, offset: int, length: int) -> None:
        """Set the bit of every granule that the range touches."""
        if not length:
            return
        assert not self.read_only, "the bitmap is read-only"
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        assert 0 <= first <= last < self._bit_count, f"{offset}+{length} of {self.size}"
        if first == last:
            self.bits.add(first)
        else:
            self.bits.add_range(first, last + 1)

    def unmark(self, offset: int, length: int) -> None:
        """Reset the range, which consists of whole granules (the disk's end may cut the last)."""
        if not length:
            return
        assert not self.read_only, "the bitmap is read-only"
        end = offset + length
        assert offset % self.granularity == 0, f"{offset}+{length} is not whole granules"
        assert end % self.granularity == 0 or end == self.size, f"{offset}+{length}"
        first, last = offset >> self._shift, (end - 1) >> self._shift
        assert 0 <= first <= last < self._bit_count, f"{offset}+{length} of {self.size}"
        self.bits.remove_range(first, last + 1)

    def get(self, offset: int) -> bool:
        """Return whether the granule at ``offset`` is dirty."""
        return offset >> self._shift in self.bits

    def next_dirty(self, offset: int, end: int | None = None) -> int | None:
        """Return the first dirty byte in ``[offset, end)``."""
        end = self.size if end is None else min(end, self.size)
        if offset >= end:
            return None
        bit = roaring.next_set(self.bits, offset >> self._shift, ((end - 1) >> self._shift) + 1)
        return None if bit is None else max(offset, bit << self._shift)

    def next_clean(self, offset: int, end: int | None = None) -> int | None:
        """Return the first clean byte in ``[offset, end)``."""
        end = self.size if end is None else min(end, self.size)
        if offset >= end:
            return None
        last = ((end - 1) >> self._shift) + 1
        bit = roaring.next_reset(self.bits, offset >> self._shift, last)
        return None if bit == last else max(offset, bit << self._shift)

    def next_run(
        self, offset: int, end: int | None = None, max_length: int | None = None
    ) -> tuple[int, int] | None:
        """Return ``(offset, length)`` of the first dirty run in ``[offset, end)``."""
        end = self.size if end is None else min(end, self.size)
        start = self.next_dirty(offset, end)
        if start is None:
            return None
        stop = end if max_length is None else min(end, start + max_length)
        clean = self.next_clean(start, stop)
        return start, (stop if clean is None else clean) - start

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the dirty runs of ``[start, end)`` as ``(offset, length)``, longest possible.

        The bits are looked at in windows, each when the iteration reaches it: a change before
        that position has no effect, one after it may.
        """
        end = self.size if end is None else min(end, self.size)
        if not start % self.granularity:
            return roaring.runs(self.bits, self._shift, start, end)
        cut = self.next_run(start, end)
        if cut is None:
            return iter(())
        if sum(cut) == end:
            return iter((cut,))
        # What follows begins with a whole granule.
        return chain([cut], roaring.runs(self.bits, self._shift, sum(cut), end))

    def turns(self, start: int, end: int, limit: int) -> array[int]:
        """Return for how many bytes ``[start, end)`` is clean and dirty by turns.

        The first number is of clean bytes and may be 0. After the first ``limit`` changes the rest
        is left out. What lies beyond the end of the disk is clean. The numbers have 64 bits if the
        range has 4 GiB or more, else 32.
        """
        code = _code_for(end - start)
        if start >= self.size:
            return array(code, [end - start])
        inside = -(-start >> self._shift) << self._shift
        if inside == start:
            return self._aligned_turns(start, end, limit, code)
        dirty = self.get(start)
        if inside >= end:
            return array(code, [0, end - start] if dirty else [end - start])
        found = self._aligned_turns(inside, end, limit + 1, code)
        if dirty and (found[0] or len(found) == 1):
            return array(code, [0, inside - start]) + found
        found[1 if dirty else 0] += inside - start
        return found

    def _aligned_turns(self, start: int, end: int, limit: int, code: str) -> array[int]:
        first, stop = start >> self._shift, min(-(-end >> self._shift), self._bit_count)
        borders = roaring.borders(self.bits, first, stop)
        if stop << self._shift >= end:
            borders.discard(stop - first)
        if not borders:
            return array(code, [end - start])
        whole = len(borders) <= limit
        changes = (borders if whole else borders[:limit]).to_array()
        found = array(code, [changes[0] << self._shift])
        if code == _NARROW:
            found += lanes.differences(changes, self._shift)
        else:
            found += lanes.widened(lanes.differences(changes, 0), self._shift)
        if whole:
            found.append(end - start - (changes[-1] << self._shift))
        return found

    # --- in steps

    def add_steps(self, source: Granules) -> Steps[None]:
        """Add the dirty granules of a disk of the same size, which has any granularity.

        Both may be changed between the steps; a change before the position of a step is missed.
        """
        by = self._shift - source._shift
        if by >= 0:
            yield from roaring.add_coarser(self.bits, source.bits, by, source._bit_count)
            return
        runs = source.runs()
        while some := list(islice(runs, RUNS_AT_ONCE)):
            roaring.add_runs(self.bits, self._shift, some)
            yield

    def sha256_steps(self) -> Steps[str]:
        """Return the digest of the bits, as ``x-debug-block-dirty-bitmap-sha256`` does.

        It is taken over whole 64-bit words, at least one.
        """
        return bitmap_data.sha256(self.bits, self._bit_count)

    def resize(self, size: int) -> None:
        """Follow the disk to a new size; what grows is clean, what is cut off is forgotten."""
        bit_count = -(-size // self.granularity)
        if bit_count < self._bit_count:
            self.bits.remove_range(bit_count, self._bit_count)
        self.bits = roaring.fitted(self.bits, bit_count)
        self.size, self._bit_count = size, bit_count

    # --- as bytes

    @property
    def data_length(self) -> int:
        """Length of the bitmap's data in bytes: a bit for each granule, rounded up."""
        return -(-self._bit_count // 8)

    def serialize(self, position: int, length: int) -> bytes:
        """Return ``length`` bytes of the bitmap's data from byte ``position`` on.

        The least significant bit comes first, and beyond the last granule all bits are zero (qcow2
        specification, "Bitmap data").
        """
        return bitmap_data.serialize(self.bits, self._bit_count, position, length)

    def serialized_pieces(self, length: int) -> Iterator[tuple[int, bytes]]:
        """Yield ``(index, data)`` of those pieces of ``length`` bytes that have a bit set."""
        return bitmap_data.pieces(self.bits, self._bit_count, length)

    def deserialize(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Replace the bits from byte ``position`` of the bitmap's data on.

        Bits beyond the last granule are ignored.
        """
        bitmap_data.deserialize(self.bits, self._bit_count, position, data)

    def deserialize_ones(self, position: int, length: int) -> None:
        """Set all bits of ``length`` bytes of data (a bitmap table entry that says so)."""
        first, stop = position * 8, min((position + length) * 8, self._bit_count)
        if first < stop:
            self.bits.add_range(first, stop)

    def compact(self) -> None:
        """Store runs as runs; worth its while after loading or marking much."""
        self.bits.run_optimize()

    def sha256(self) -> str:
        """Return what ``sha256_steps`` does, at once."""
        return at_once(self.sha256_steps())
