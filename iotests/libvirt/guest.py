"""One step with the domain of ``session.py``, which runs on afterwards.

``guest.py EMULATOR DIRECTORY start|destroy|write DEV OFFSET LENGTH PATTERN``
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import libvirt
from session import Session


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def main() -> None:
    """Do the step; the emulator runs on."""
    emulator, root, step, *words = sys.argv[1:]
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_serve_events, daemon=True).start()
    session = Session(emulator, Path(root))
    if step == "start":
        session.start()
    else:
        session.domain = session.connection.lookupByName("guest")
        if step == "destroy":
            session.hmp("info status")  # waits until libvirt has found it again
            session.domain.destroy()
        else:
            session.write(words[0], *map(int, words[1:]))


if __name__ == "__main__":
    main()
