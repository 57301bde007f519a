"""Dirty bitmaps: which granules of a disk were written since a point in time.

Laws:

* A bit is lost only by ``clear``, ``unmark``, ``restore``, ``resize``, ``deserialize`` or when a
  bitmap abdicates. Everything else adds bits.
* A frozen bitmap (one with a successor) takes no writes; its successor does. Freezing ends in one
  of two ways: *abdicate* (the successor's bits take the name: the backup is good) or *reclaim*
  (they are merged back: nothing is forgotten).
* Several jobs of one transaction may have frozen the same bitmap. Each settles once; the last one
  decides, and a single failure among them means reclaim.
* The object keeps its identity through all that, so whoever holds it by name goes on holding it.
* A bitmap knows no node.

Offsets and lengths are bytes, as everywhere. ``docs/adr/0004-bitmap-representation.md`` tells why
the bits are a roaring bitmap and what that costs.

QEMU's counterpart: ``block/dirty-bitmap.c``, ``util/hbitmap.c``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from . import bitmap_data, roaring
from .bitmap_freeze import Freeze, Outcome
from .errors import QmpError
from .roaring import Bits

__all__ = ["BitmapCheck", "DirtyBitmap", "Outcome", "Saved"]

MIN_GRANULARITY = 512
MAX_NAME_SIZE = 1023
"""BDRV_BITMAP_MAX_NAME_SIZE, in bytes of UTF-8."""


class BitmapCheck(IntFlag):
    """BDRV_BITMAP_*: which states make a bitmap unusable for what a caller wants."""

    BUSY = 1
    READ_ONLY = 2
    INCONSISTENT = 4
    DEFAULT = 7
    ALLOW_READ_ONLY = 5


@dataclass(frozen=True, slots=True)
class Saved:
    """The bits of a bitmap at a moment, to be given back to ``restore``, once."""

    size: int
    bits: Bits


class DirtyBitmap:
    """One dirty bitmap of ``size`` bytes, a bit for each ``granularity`` bytes.

    ``enabled`` bitmaps take writes. ``busy`` ones belong to an operation and are closed to QMP
    commands. ``read_only`` and ``inconsistent`` tell of a persistent bitmap's state on disk.
    ``skip_store`` is set on one that is being deleted or moved, so that it is not stored. ``bits``
    is for this room alone.
    """

    def __init__(self, size: int, granularity: int, name: str | None = None) -> None:
        assert granularity >= MIN_GRANULARITY, f"granularity {granularity}"
        assert granularity & (granularity - 1) == 0, f"granularity {granularity}"
        assert size >= 0, f"size {size}"
        self.name = name
        self.size = size
        self.granularity = granularity
        self.enabled = True
        self.busy = False
        self.persistent = False
        self.inconsistent = False
        self.read_only = False
        self.skip_store = False
        self.successor: DirtyBitmap | None = None
        self._shift = granularity.bit_length() - 1
        self._bit_count = -(-size // granularity)
        self.bits: Bits = roaring.empty_bits(self._bit_count)
        self._freeze: Freeze | None = None

    # --- what it says of itself

    @property
    def recording(self) -> bool:
        """Whether writes are noted, here or in the successor."""
        return self.enabled or (self.successor is not None and self.successor.enabled)

    @property
    def frozen(self) -> bool:
        """Whether a successor takes the writes."""
        return self.successor is not None

    @property
    def stored(self) -> bool:
        """Whether the bitmap is to be written to its image."""
        return self.persistent and not self.skip_store

    def count(self) -> int:
        """Return the dirty bytes in whole granules, without the successor's."""
        return len(self.bits) << self._shift

    def describe(self) -> dict[str, Any]:
        """Return the members of BlockDirtyInfo.

        As in QEMU a successor is an entry of its own, nameless, listed before older bitmaps.
        """
        info: dict[str, Any] = {} if self.name is None else {"name": self.name}
        info |= {
            "count": self.count(),
            "granularity": self.granularity,
            "recording": self.recording,
            "busy": self.busy,
            "persistent": self.persistent,
        }
        if self.inconsistent:
            info["inconsistent"] = True
        return info

    def check(self, flags: BitmapCheck = BitmapCheck.DEFAULT) -> None:
        """Raise ``QmpError`` if the bitmap is in one of the states in ``flags``."""
        if self.busy and flags & BitmapCheck.BUSY:
            raise QmpError(
                f"Bitmap '{self.name}' is currently in use by another operation and cannot be used"
            )
        if self.read_only and flags & BitmapCheck.READ_ONLY:
            raise QmpError(f"Bitmap '{self.name}' is readonly and cannot be modified")
        if self.inconsistent and flags & BitmapCheck.INCONSISTENT:
            error = QmpError(f"Bitmap '{self.name}' is inconsistent and cannot be used")
            error.add_note("Try block-dirty-bitmap-remove to delete this bitmap from disk")
            raise error

    def mark_inconsistent(self) -> None:
        """Say that what the image holds of this persistent bitmap cannot be trusted."""
        assert self.persistent
        self.inconsistent = True
        self.enabled = False

    # --- bits

    def record_write(self, offset: int, length: int) -> None:
        """Note that a range was written, if the bitmap is recording."""
        if self.successor is not None:
            self.successor.record_write(offset, length)
        elif self.enabled:
            self.mark(offset, length)

    def mark(self, offset: int, length: int) -> None:
        """Set the bit of every granule that the range touches."""
        if not length:
            return
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        assert 0 <= first <= last < self._bit_count, f"{offset}+{length} of {self.size}"
        if first == last:
            self.bits.add(first)
        else:
            self.bits.add_range(first, last + 1)

    def mark_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Mark many ``(offset, length)`` ranges; lengths are not zero."""
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
        roaring.add_runs(self.bits, self._shift, runs)
        assert not self.bits or self.bits.max() < self._bit_count, f"beyond {self.size}"

    def unmark(self, offset: int, length: int) -> None:
        """Reset the range, which consists of whole granules (the disk's end may cut the last)."""
        if not length:
            return
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
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

        The bits are looked at in windows, each when the iteration arrives there: a change behind
        it has no effect, one ahead may.
        """
        end = self.size if end is None else min(end, self.size)
        if start % self.granularity:
            cut = self.next_run(start, end)
            if cut is None:
                return
            yield cut
            start = sum(cut)
        if start < end:  # and so a whole number of granules, if a run was cut
            yield from roaring.runs(self.bits, self._shift, start, end)

    def clear(self) -> Saved:
        """Reset every bit; return what was there, for ``restore``."""
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
        saved = Saved(self.size, self.bits)
        self.bits = roaring.empty_bits(self._bit_count)
        return saved

    def save(self) -> Saved:
        """Return a copy of the bits, for ``restore``."""
        return Saved(self.size, self.bits.copy())

    def restore(self, saved: Saved) -> None:
        """Take back bits that ``clear`` or ``save`` returned; the bits set since are lost."""
        assert saved.size == self.size, "the disk was resized meanwhile"
        self.bits = saved.bits

    # --- whole bitmaps

    def merge(self, source: DirtyBitmap) -> None:
        """Add the bits of another bitmap of the same size, as ``block-dirty-bitmap-merge`` does.

        Raises ``QmpError``, with nothing changed, if one of the two may not be used so.
        """
        self.check(BitmapCheck.DEFAULT)
        source.check(BitmapCheck.ALLOW_READ_ONLY)
        if source.size != self.size:
            raise QmpError(
                f"Bitmaps are of different sizes (destination size is {self.size}, "
                f"source size is {source.size}) and can't be merged"
            )
        self.absorb(source)

    def absorb(self, source: DirtyBitmap) -> None:
        """Add the bits of another bitmap of the same size, busy or not."""
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
        self._add(source)

    def _add(self, source: DirtyBitmap) -> None:
        assert source.size == self.size, f"{source.size} into {self.size}"
        assert not self.inconsistent, f"bitmap {self.name!r}"
        assert not source.inconsistent, f"bitmap {source.name!r}"
        if source.granularity == self.granularity:
            roaring.unite(self.bits, source.bits)
        else:
            roaring.add_runs(self.bits, self._shift, source.runs())

    def copy(self) -> DirtyBitmap:
        """Return a nameless bitmap with the same bits, enabled and free."""
        other = DirtyBitmap(self.size, self.granularity)
        other.bits = self.bits.copy()
        return other

    def resize(self, size: int) -> None:
        """Follow the disk to a new size; what grows is clean, what is cut off is forgotten."""
        bit_count = -(-size // self.granularity)
        if bit_count < self._bit_count:
            self.bits.remove_range(bit_count, self._bit_count)
        self.bits = roaring.fitted(self.bits, bit_count)
        self.size, self._bit_count = size, bit_count
        if self.successor is not None:
            self.successor.resize(size)

    # --- freezing

    def create_successor(self) -> None:
        """Freeze: from now on a nameless successor takes the writes.

        Raises ``QmpError`` if the bitmap is busy.
        """
        self.check(BitmapCheck.BUSY)
        assert self.successor is None
        successor = DirtyBitmap(self.size, self.granularity)
        successor.enabled = self.enabled
        self.enabled = False
        self.successor = successor
        self.busy = True

    def abdicate(self) -> None:
        """Let the successor take the place: the frozen bits are forgotten."""
        assert self.successor is not None, "there is no successor"
        self.bits = self.successor.bits
        self._thaw()

    def reclaim(self) -> None:
        """Merge the successor back: nothing is forgotten."""
        assert self.successor is not None, "there is no successor"
        roaring.unite(self.bits, self.successor.bits)
        self._thaw()

    def _thaw(self) -> None:
        assert self.successor is not None
        assert self.successor.size == self.size
        self.enabled = self.successor.enabled
        self.successor = None
        self._freeze = None
        self.busy = False

    def freeze(self, user: Hashable, group: Hashable | None = None) -> None:
        """Freeze the bitmap for ``user``, or join those who froze it for the same ``group``.

        Raises ``QmpError`` if the bitmap is busy otherwise.
        """
        if self._freeze is None or not self._freeze.admits(group):
            self.create_successor()
            self._freeze = Freeze(group)
        self._freeze.join(user)

    def pending_users(self) -> frozenset[Hashable]:
        """Return who has frozen the bitmap and not settled yet."""
        return frozenset() if self._freeze is None else frozenset(self._freeze.pending)

    def settle(
        self, user: Hashable, *, success: bool, uncopied: DirtyBitmap | None = None
    ) -> Outcome | None:
        """Say, once for each user, whether its work is done; the last one thaws the bitmap.

        ``uncopied`` are bits that stay dirty although the bitmap abdicates (``bitmap-mode``
        ``always``, after a failure). Returns the outcome when the bitmap has thawed.
        """
        freeze = self._freeze
        assert freeze is not None, f"bitmap {self.name!r} is not frozen"
        outcome = freeze.settle(user, success=success, uncopied=uncopied)
        if outcome is Outcome.RECLAIMED:
            self.reclaim()
        elif outcome is Outcome.ABDICATED:
            self.abdicate()
            for bitmap in freeze.uncopied:  # the image may have become read-only meanwhile
                self._add(bitmap)
        return outcome

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
        """Return the digest of the bits, as ``x-debug-block-dirty-bitmap-sha256`` does.

        It is taken over whole 64-bit words, at least one.
        """
        return bitmap_data.sha256(self.bits, self._bit_count)
