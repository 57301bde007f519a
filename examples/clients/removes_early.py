"""A mistake: the bitmap of the last backup is merged into a copy, and removed once the jobs run.

The jobs read the copy. When one fails, the newest bitmap knows only what was written since.
"""

from __future__ import annotations

import sys

from careful import OURS, Backup, main

COPY = f"{OURS}copy"


class Mistaken(Backup):
    """A backup with that mistake."""

    async def remove_remains(self) -> None:
        """Take the newest bitmap for the base."""
        names = {name for found in (await self.bitmaps()).values() for name in found}
        numbers = [int(name.removeprefix(OURS)) for name in names - {COPY}]
        self.base = f"{OURS}{max(numbers, default=0)}"
        self.bitmap = f"{OURS}{max(numbers, default=0) + 1}"
        await super().remove_remains()

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Back up what a copy of the last bitmap names."""
        add, backup = super().actions(disk, full=full)
        if full:
            return [add, backup]
        backup["data"]["bitmap"] = COPY
        copy = {"node": disk, "name": COPY, "disabled": True}
        merge = {"node": disk, "target": COPY, "bitmaps": [self.base]}
        return [
            add,
            {"type": "block-dirty-bitmap-add", "data": copy},
            {"type": "block-dirty-bitmap-merge", "data": merge},
            backup,
        ]

    async def start(self, *, full: bool) -> None:
        """Start the jobs, and remove what they do not need."""
        await super().start(full=full)
        for disk, found in (await self.bitmaps()).items():
            if self.base in found:
                await self.execute("block-dirty-bitmap-remove", node=disk, name=self.base)


if __name__ == "__main__":
    sys.exit(main(Mistaken))
