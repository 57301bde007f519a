"""Dirty bitmaps: which granules of a disk were written since a point in time.

Invariants:

* A bit is lost only by ``clear``, ``unmark``, ``restore``, ``resize``, ``deserialize`` or when a
  bitmap abdicates. Everything else adds bits.
* A frozen bitmap (one with a successor) takes no writes; its successor does. Freezing ends in one
  of two ways: *abdicate* (the successor's bits take the name: the backup is good) or *reclaim*
  (they are merged back: nothing is forgotten).
* Several jobs of one transaction may have frozen the same bitmap. Each settles once; the last one
  decides, and a single failure among them means reclaim.
* The object keeps its identity through all that, so whoever holds it by name goes on holding it.
* A bitmap knows no node.

The bits themselves are ``Granules``.

QEMU's counterpart: ``block/dirty-bitmap.c``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from blkxact.dirty import roaring
from blkxact.dirty.freeze import Freeze
from blkxact.dirty.granules import MIN_GRANULARITY, Granules
from blkxact.dirty.roaring import Bits
from blkxact.enums import BitmapOutcome
from blkxact.errors import QmpError
from blkxact.runtime.steps import Steps, at_once

__all__ = ["MIN_GRANULARITY", "BitmapCheck", "DirtyBitmap", "Saved"]

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


class DirtyBitmap(Granules):
    """One dirty bitmap of ``size`` bytes, a bit for each ``granularity`` bytes.

    ``enabled`` bitmaps take writes. ``busy`` ones belong to an operation and are closed to QMP
    commands. ``read_only`` and ``inconsistent`` give a persistent bitmap's state on disk.
    ``skip_store`` is set on one that is being deleted or moved, so that it is not stored.
    """

    def __init__(self, size: int, granularity: int, name: str | None = None) -> None:
        super().__init__(size, granularity)
        self.name = name
        self.enabled = True
        self.busy = False
        self.persistent = False
        self.inconsistent = False
        self.skip_store = False
        self.successor: DirtyBitmap | None = None
        self.serial = 0
        """Its place among the bitmaps of a node: a later one has a greater number."""
        self._serials: Iterator[int] | None = None
        self._freeze: Freeze[DirtyBitmap] | None = None

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

    def merge_steps(self, source: DirtyBitmap) -> Steps[None]:
        """Add the bits of another bitmap of the same size, as ``block-dirty-bitmap-merge`` does.

        Raises ``QmpError`` at once, with nothing changed, if one of the two may not be used so.
        """
        self.check(BitmapCheck.DEFAULT)
        source.check(BitmapCheck.ALLOW_READ_ONLY)
        if source.size != self.size:
            raise QmpError(
                f"Bitmaps are of different sizes (destination size is {self.size}, "
                f"source size is {source.size}) and can't be merged"
            )
        return self.absorb_steps(source)

    def absorb_steps(self, source: DirtyBitmap) -> Steps[None]:
        """Add the bits of another bitmap of the same size, busy or not."""
        assert not self.read_only, f"bitmap {self.name!r} is read-only"
        self._check_alike(source)
        return self.add_steps(source)

    def merge(self, source: DirtyBitmap) -> None:
        """Do what ``merge_steps`` does, at once."""
        at_once(self.merge_steps(source))

    def absorb(self, source: DirtyBitmap) -> None:
        """Do what ``absorb_steps`` does, at once."""
        at_once(self.absorb_steps(source))

    def _check_alike(self, source: DirtyBitmap) -> None:
        assert source.size == self.size, f"{source.size} into {self.size}"
        assert not self.inconsistent, f"bitmap {self.name!r}"
        assert not source.inconsistent, f"bitmap {source.name!r}"

    def copy(self) -> DirtyBitmap:
        """Return a nameless bitmap with the same bits, enabled and free."""
        other = DirtyBitmap(self.size, self.granularity)
        other.bits = self.bits.copy()
        return other

    def resize(self, size: int) -> None:
        """Follow the disk to a new size; what grows is clean, what is cut off is forgotten."""
        super().resize(size)
        if self.successor is not None:
            self.successor.resize(size)

    def enlist(self, serials: Iterator[int]) -> None:
        """Become the latest bitmap of the node whose numbers these are."""
        self._serials = serials
        self.serial = next(serials)

    # --- freezing

    def create_successor(self) -> None:
        """Freeze: from now on a nameless successor takes the writes.

        Raises ``QmpError`` if the bitmap is busy.
        """
        self.check(BitmapCheck.BUSY)
        assert self.successor is None
        successor = DirtyBitmap(self.size, self.granularity)
        successor.enabled = self.enabled
        if self._serials is not None:
            successor.enlist(self._serials)
        self.enabled = False
        self.successor = successor
        self.busy = True

    def abdicate(self) -> None:
        """Let the successor take the place: the frozen bits are forgotten."""
        assert self.successor is not None, "there is no successor"
        self.bits = self.successor.bits
        self.serial = self.successor.serial
        self._thaw()

    def reclaim(self) -> None:
        """Merge the successor back: nothing is forgotten."""
        assert self.successor is not None, "there is no successor"
        roaring.unite(self.bits, self.successor.bits)
        self._thaw()

    def as_if_reclaimed(self) -> DirtyBitmap:
        """Return what a frozen bitmap would be if it were reclaimed now: an image keeps that."""
        assert self.successor is not None, "there is no successor"
        other = self.copy()
        other.absorb(self.successor)
        other.name = self.name
        other.persistent = self.persistent
        other.enabled = self.successor.enabled
        return other

    def _thaw(self) -> None:
        assert self.successor is not None
        assert self.successor.size == self.size
        self.enabled = self.successor.enabled
        self.successor = None
        self._freeze = None
        self.busy = False

    def check_freeze(self, group: Hashable | None) -> None:
        """Raise ``QmpError`` unless ``freeze`` for that group is possible."""
        joins = self._freeze is not None and self._freeze.admits(group)
        busy = BitmapCheck(0) if joins else BitmapCheck.BUSY
        self.check(busy | BitmapCheck.INCONSISTENT)

    def freeze(self, user: Hashable, group: Hashable | None = None) -> None:
        """Freeze the bitmap for ``user``, or join those who froze it for the same ``group``.

        Raises ``QmpError`` if the bitmap is busy otherwise.
        """
        if self._freeze is None or not self._freeze.admits(group):
            self.create_successor()
            self._freeze = Freeze(group)
        self._freeze.join(user)

    def settle(
        self, user: Hashable, *, success: bool, uncopied: DirtyBitmap | None = None
    ) -> BitmapOutcome | None:
        """Say, once for each user, whether its work is done; the last one thaws the bitmap.

        ``uncopied`` are bits that stay dirty although the bitmap abdicates (``bitmap-mode``
        ``always``, after a failure). Returns the outcome when the bitmap has thawed.
        """
        freeze = self._freeze
        assert freeze is not None, f"bitmap {self.name!r} is not frozen"
        kept = None if uncopied is None else uncopied.copy()  # a job clears its own when it ends
        outcome = freeze.settle(user, success=success, uncopied=kept)
        if outcome is BitmapOutcome.RECLAIMED:
            self.reclaim()
        elif outcome is BitmapOutcome.ABDICATED:
            self.abdicate()
            for bitmap in freeze.uncopied:  # the image may have become read-only meanwhile
                self._check_alike(bitmap)
                at_once(self.add_steps(bitmap))
        return outcome
