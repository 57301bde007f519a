#!/usr/bin/env python3
"""A mistake: an image that is already there is taken for one that was written.

It may be what a call left that failed or was killed in the middle."""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def copy(self, *, full: bool) -> None:
        """Back up the disks that are still missing."""
        if self.disks:
            await super().copy(full=full)
        self.disks = list(self.sizes_of_disks)

    async def remove_remains(self) -> None:
        """Leave out the disks that have an image."""
        await super().remove_remains()
        self.sizes_of_disks = dict.fromkeys(self.disks)
        self.disks = [disk for disk in self.disks if not self.image_of(disk).exists()]


if __name__ == "__main__":
    sys.exit(main(Mistaken))
