"""What ``--version`` prints, in the layout that programs look for in the output of QEMU's."""

from __future__ import annotations

from blkxact import PACKAGE
from blkxact.runtime.release import DEFAULT_RELEASE, Release


def version_text(program: str, release: Release = DEFAULT_RELEASE) -> str:
    """Return the two lines of a program that stands in for one of QEMU's."""
    return (
        f"{program} version {release} ({PACKAGE})\n"
        "blkxact follows this version of QEMU and contains no code of it"
    )
