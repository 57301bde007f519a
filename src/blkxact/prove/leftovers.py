"""Processes that the commands of a case leave running, as a libvirtd that starts the emulator.

They are known by the variable of their environment that names the socket of their case.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from .relay import VARIABLE


def end_leftovers(directory: Path) -> None:
    """End all processes of the cases whose directory is this one or below it."""
    mark = f"{VARIABLE}={directory}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it ends meanwhile, or is another user's
            words = (entry / "environ").read_bytes().split(b"\0")
            if any(word.startswith(mark) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
