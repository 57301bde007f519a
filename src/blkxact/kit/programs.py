"""The directory of an emulator's sockets and programs, and what runs those programs."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

POLL_S: Final = 0.01
MAX_POLLS: Final = 100
"""Times that are waited for a process that is about to end."""
MAX_PATH: Final = 80
"""Most bytes in the path of a directory for sockets, whose own paths have at most 107."""
MAX_WORDS: Final = 4
"""Words of a command line before which the interpreter's options end."""


def make_directory(beside: Path) -> Path:
    """Make the directory: in that of the disks, or in /tmp if its path would be too long."""
    directory = beside / ".blkxact"
    if len(os.fsencode(directory)) > MAX_PATH:
        return Path(tempfile.mkdtemp(prefix="blkxact-kit-"))
    directory.mkdir(mode=0o700)
    return directory


def end_processes(directory: Path) -> list[str]:
    """Kill the processes that still run programs of a directory; return what is said of them."""
    if not directory.exists():
        return []
    for _ in range(MAX_POLLS):
        left = _processes_of(directory)
        if not left:
            break
        threading.Event().wait(POLL_S)
    for number in left:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return [f"process {number} is left behind ({name})" for number, name in left.items()]


def _processes_of(directory: Path) -> dict[int, str]:
    """Return the processes by number, with the name of the program."""
    found = {}
    for number in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - of thousands
        try:
            words = Path("/proc", number, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile
        for word in words[:MAX_WORDS]:
            program = Path(os.fsdecode(word))
            if program.parent == directory:
                found[int(number)] = program.name
    return found
