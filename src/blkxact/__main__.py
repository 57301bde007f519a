"""``python -m blkxact`` and the ``blkxact`` command: see ``cli/``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; ctrl-C is quiet from the first moment on."""
    try:
        from .cli.main import main as run  # noqa: PLC0415 - it takes long enough to press ctrl-C

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
