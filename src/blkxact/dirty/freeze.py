"""Who has frozen a dirty bitmap, and how that is to end.

Invariants: each user settles once. While one is left nothing happens; then the bitmap abdicates if
all succeeded, and is reclaimed if one failed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from blkxact.enums import BitmapOutcome

T = TypeVar("T")


@dataclass(slots=True)
class Freeze(Generic[T]):
    """The users of a frozen bitmap (a ``T``); those of the same ``group`` may share it."""

    group: Hashable | None
    users: set[Hashable] = field(default_factory=set)
    pending: set[Hashable] = field(default_factory=set)
    failed: bool = False
    uncopied: list[T] = field(default_factory=list)
    """What stays dirty although the bitmap abdicates."""

    def admits(self, group: Hashable | None) -> bool:
        """Return whether another user of ``group`` may join."""
        return group is not None and group == self.group

    def join(self, user: Hashable) -> None:
        """Count one more user."""
        assert user not in self.users, f"{user!r} has frozen the bitmap already"
        self.users.add(user)
        self.pending.add(user)

    def settle(self, user: Hashable, *, success: bool, uncopied: T | None) -> BitmapOutcome | None:
        """Note how a user ended; return the outcome if it was the last."""
        assert user in self.pending, f"{user!r} may not settle the bitmap"
        assert uncopied is None or success, "a reclaimed bitmap keeps all its bits"
        self.pending.remove(user)
        self.failed |= not success
        if uncopied is not None:
            self.uncopied.append(uncopied)
        if self.pending:
            return None
        return BitmapOutcome.RECLAIMED if self.failed else BitmapOutcome.ABDICATED
