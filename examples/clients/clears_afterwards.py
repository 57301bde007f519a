"""A mistake: one bitmap for all backups is cleared when a backup is complete.

What the guest wrote while the jobs ran was not in the backup, and is forgotten with the rest.
"""

from __future__ import annotations

import sys

from careful import OURS, Backup, main, read_manifest


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
            await super().remove_bitmaps(keep="")

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Back up with the bitmap that is there."""
        add, backup = super().actions(disk, full=full)
        return [add, backup] if self.fresh else [backup]

    async def remove_bitmaps(self, *, keep: str) -> None:
        """Clear the bitmap at the end."""
        await super().remove_bitmaps(keep=keep)
        if read_manifest(self.store)["number"] == self.number:
            for disk in self.disks:
                await self.execute("block-dirty-bitmap-clear", node=disk, name=self.bitmap)


if __name__ == "__main__":
    sys.exit(main(Mistaken))
