"""A mistake: the manifest is renamed before it is on the disk.

After a power failure it may be there with nothing in it, and with it all backups are lost.
"""

from __future__ import annotations

import json
import sys

from careful import Backup, main


class Mistaken(Backup):
    """A backup with that mistake."""

    def publish(self) -> None:
        """Write the manifest and rename it."""
        images = {disk: self.image_of(disk).name for disk in self.disks}
        new = self.store / "manifest.new"
        new.write_text(json.dumps({"number": self.number, "images": images}))
        new.rename(self.store / "manifest.json")


if __name__ == "__main__":
    sys.exit(main(Mistaken))
