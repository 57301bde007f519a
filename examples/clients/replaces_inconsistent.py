"""A mistake: an inconsistent bitmap is replaced, and the next backup is an incremental one.

A bitmap is inconsistent after a crash: it may lack writes. A new one lacks all of them.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def is_sound(self, name: str) -> bool:
        """Put a new bitmap in place of an inconsistent one."""
        for disk, found in (await self.bitmaps()).items():
            if found.get(name, {}).get("inconsistent"):
                await self.execute("block-dirty-bitmap-remove", node=disk, name=name)
                await self.execute("block-dirty-bitmap-add", node=disk, name=name, persistent=True)
        return await super().is_sound(name)


if __name__ == "__main__":
    sys.exit(main(Mistaken))
