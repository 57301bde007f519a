"""A mistake: the bitmap is added when the backup is complete.

What the guest wrote while the jobs ran is in no bitmap.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Only back up."""
        return super().actions(disk, full=full)[1:]

    async def copy(self, *, full: bool) -> None:
        """Run the jobs, then add the bitmaps."""
        await super().copy(full=full)
        for disk in self.disks:
            await self.execute(
                "block-dirty-bitmap-add", node=disk, name=self.bitmap, persistent=True
            )


if __name__ == "__main__":
    sys.exit(main(Mistaken))
