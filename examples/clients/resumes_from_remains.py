"""A mistake: an image that is already there is taken for one that was written.

It may be what a call left that failed or was killed in the middle.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def remove_remains(self) -> None:
        """Leave out the disks that have an image."""
        await super().remove_remains()
        self.all_disks = self.disks
        self.disks = [disk for disk in self.disks if not self.image_of(disk).exists()]

    def publish(self) -> None:
        """Claim all disks."""
        self.disks = self.all_disks
        super().publish()


if __name__ == "__main__":
    sys.exit(main(Mistaken))
