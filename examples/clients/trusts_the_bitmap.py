"""A mistake: one bitmap for each chain is cleared by the jobs that succeed (`sync: incremental`).

When the reply or this process is lost, the jobs go on without it: they clear the bitmap, but the
backup is in no manifest, and the next one does not contain what it had.
"""

from __future__ import annotations

import sys

from careful import OURS, Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.base = f"{OURS}{self.manifest.get('chain', 0)}"

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Begin a bitmap with a full backup; let the others clear it."""
        add, backup = super().actions(disk, full=full)
        if full:
            return [add, backup]
        self.bitmap = self.base
        backup["data"]["sync"] = "incremental"
        del backup["data"]["bitmap-mode"]
        return [backup]

    def publish(self) -> None:
        """Keep the number of the chain in the manifest."""
        self.manifest["chain"] = int(self.bitmap.removeprefix(OURS))
        super().publish()


if __name__ == "__main__":
    sys.exit(main(Mistaken))
