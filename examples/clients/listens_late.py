"""A mistake: it begins to listen for the end of the jobs when they have been started.

A job may end before the reply to the command that started it. Its event is sent once.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def copy(self, *, full: bool) -> None:
        """Start the jobs, then wait for their events."""
        await self.start(full=full)
        with self.qmp.listen(self.ended):
            await self.wait_for_jobs()

    def patience(self) -> None:
        """Wait as long as it takes."""
        return


if __name__ == "__main__":
    sys.exit(main(Mistaken))
