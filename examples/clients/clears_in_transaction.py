"""A mistake: one bitmap for all backups is cleared in the transaction that starts the jobs.

The jobs read a copy of it. The transaction is over, and the bitmap cleared, long before the jobs
are: when one fails, nothing knows any more what it should have copied.
"""

from __future__ import annotations

import sys

from careful import OURS, Backup, main

COPY = f"{OURS}copy"


class Mistaken(Backup):
    """A backup with that mistake."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.base = self.bitmap = f"{OURS}active"
        self.fresh = False
        """The bitmap begins with this backup."""

    async def remove_remains(self) -> None:
        """Remove the bitmap as well if it is worth nothing."""
        await super().remove_remains()
        self.fresh = not await self.is_sound(self.base)
        if self.fresh:
            await self.remove_bitmaps(keep="")

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Copy the bitmap, clear it, and back up what the copy names."""
        if self.fresh:
            return super().actions(disk, full=full)
        _, backup = super().actions(disk, full=full)
        active, copy = ({"node": disk, "name": name} for name in (self.base, COPY))
        merge = {"node": disk, "target": COPY, "bitmaps": [self.base]}
        if not full:
            backup["data"]["bitmap"] = COPY
        return [
            {"type": "block-dirty-bitmap-add", "data": {**copy, "disabled": True}},
            {"type": "block-dirty-bitmap-merge", "data": merge},
            {"type": "block-dirty-bitmap-clear", "data": active},
            backup,
        ]


if __name__ == "__main__":
    sys.exit(main(Mistaken))
