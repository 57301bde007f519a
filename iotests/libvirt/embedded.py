"""Run a program on the embedded libvirt: it registers the event loop that this needs.

``embedded.py PROGRAM ARGUMENTS…``
"""

from __future__ import annotations

import runpy
import sys
import threading

import libvirt


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_serve_events, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
