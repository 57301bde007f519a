"""What ``--version`` prints, in the layout that programs look for in the output of QEMU's."""

from __future__ import annotations

from blkxact import PACKAGE
from blkxact.qmp.session import QEMU_VERSION


def version_text(program: str) -> str:
    """Return the two lines of a program that stands in for one of QEMU's."""
    release = "{major}.{minor}.{micro}".format(**QEMU_VERSION)
    return (
        f"{program} version {release} ({PACKAGE})\n"
        "blkxact follows this version of QEMU and contains no code of it"
    )
