"""Who has frozen a dirty bitmap, and how that is to end.

Invariants: each user settles once. While one is left nothing happens; then the bitmap abdicates if
all succeeded, and is reclaimed if one failed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blkxact.enums import BitmapOutcome

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap


@dataclass(slots=True)
class Freeze:
    """The users of a frozen bitmap; those of the same ``group`` may share it."""

    group: Hashable | None
    users: set[Hashable] = field(default_factory=set)
    pending: set[Hashable] = field(default_factory=set)
    failed: bool = False
    uncopied: list[DirtyBitmap] = field(default_factory=list)
    """What stays dirty although the bitmap abdicates."""

    def admits(self, group: Hashable | None) -> bool:
        """Return whether another user of ``group`` may join."""
        return group is not None and group == self.group

    def join(self, user: Hashable) -> None:
        """Count one more user."""
        assert user not in self.users, f"{user!r} has frozen the bitmap already"
        self.users.add(user)
        self.pending.add(user)

    def settle(
        self, user: Hashable, *, success: bool, uncopied: DirtyBitmap | None
    ) -> BitmapOutcome | None:
        """Note how a user ended; return the outcome if it was the last."""
        assert user in self.pending, f"{user!r} may not settle the bitmap"
        assert uncopied is None or success, "a reclaimed bitmap keeps all its bits"
        self.pending.remove(user)
        self.failed |= not success
        if uncopied is not None:
            self.uncopied.append(uncopied.copy())  # a job clears its own when it ends
        if self.pending:
            return None
        return BitmapOutcome.RECLAIMED if self.failed else BitmapOutcome.ABDICATED


def reclaimed(bitmap: DirtyBitmap) -> DirtyBitmap:
    """Return what a frozen bitmap would be if it were reclaimed now: what an image is to keep."""
    assert bitmap.successor is not None
    other = bitmap.copy()
    other.absorb(bitmap.successor)
    other.name = bitmap.name
    other.persistent = bitmap.persistent
    other.enabled = bitmap.successor.enabled
    return other
