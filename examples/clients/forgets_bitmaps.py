"""A mistake: its bitmaps are not persistent, and one that is missing is simply added.

After a restart of the emulator the new bitmap does not know what was written before.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Begin a bitmap that lives as long as the emulator."""
        add, backup = super().actions(disk, full=full)
        del add["data"]["persistent"]
        return [add, backup]

    async def is_sound(self, name: str) -> bool:
        """Make sure that there is a bitmap."""
        if self.manifest["number"] == 0:
            return False
        for disk, found in (await self.bitmaps()).items():
            if name not in found:
                await self.execute("block-dirty-bitmap-add", node=disk, name=name)
        return True


if __name__ == "__main__":
    sys.exit(main(Mistaken))
