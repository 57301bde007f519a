"""A mistake: BLOCK_JOB_COMPLETED is taken for success.

The event is also sent for a job that failed; its `error` says so.
"""

from __future__ import annotations

import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    def has_failed(self, event: dict) -> bool:
        """Return whether the job was cancelled."""
        return event["event"] != "BLOCK_JOB_COMPLETED"


if __name__ == "__main__":
    sys.exit(main(Mistaken))
