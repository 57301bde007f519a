"""A mistake: each disk is backed up in a transaction of its own.

The backups of two disks are of two moments: a database on both cannot be restored.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def start(self, *, full: bool) -> None:
        """Start the jobs one after the other."""
        for disk in self.disks:
            await self.execute("transaction", actions=self.actions(disk, full=full))


if __name__ == "__main__":
    sys.exit(main(Mistaken))
