"""Run one scenario in an empty directory: ``scenarios.py EMULATOR DIRECTORY SCENARIO``.

Exit status 0: what libvirt, the emulator and the images say is right.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

import backups  # noqa: F401 - their scenarios are listed
import chains  # noqa: F401
import libvirt
import machine  # noqa: F401
from session import SCENARIOS, Session


def main() -> None:
    """Run one scenario."""
    emulator, root, name = sys.argv[1:]
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_serve_events, daemon=True).start()
    session = Session(emulator, Path(root))
    try:
        SCENARIOS[name](session)
    finally:
        if session.domain:
            with contextlib.suppress(libvirt.libvirtError):
                session.domain.destroy()


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main()
