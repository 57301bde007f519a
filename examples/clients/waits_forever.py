"""A mistake: it waits for the end of a job without looking whether the emulator is still there."""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    async def next_event(self) -> dict:
        """Return the next end of a job."""
        return await self.ended.get()

    def patience(self) -> None:
        """Wait as long as it takes."""
        return


if __name__ == "__main__":
    sys.exit(main(Mistaken))
