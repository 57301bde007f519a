"""Where images are made: the directory's file system, and tmpfs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .harness import Settings

TMPFS = Path("/dev/shm")


def places(settings: Settings, room: int) -> list[tuple[str, Path]]:
    """Return name and path of the file systems; tmpfs if it has ``room`` bytes."""
    found = [("disk", settings.directory)]
    if TMPFS.is_dir() and not settings.directory.is_relative_to(TMPFS):
        if shutil.disk_usage(TMPFS).free > room:
            found.append(("tmpfs", TMPFS))
        else:
            settings.report(f"left out: {TMPFS} has no room")
    return found


@contextlib.contextmanager
def directory_in(place: Path) -> Iterator[Path]:
    """Make a directory, and remove it with all that is in it."""
    directory = Path(tempfile.mkdtemp(prefix="blkxact-bench-", dir=place))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
