"""What ``blkxact system`` answers to questions: which drivers, devices and machines there are."""

from __future__ import annotations

from typing import Final

from blkxact.drivers import DRIVERS
from blkxact.machine.devices import CDROMS, CONTROLLERS, DISKS

_ALIASES: Final = {"virtio-blk-pci": "virtio-blk", "virtio-scsi-pci": "virtio-scsi"}


def help_for(name: str, value: str) -> str | None:
    """Return the answer if the option asks for help."""
    if name == "device" and value in ("help", "?"):
        return _devices()
    if name == "drive" and value == "format=help":
        return _formats()
    if name in ("machine", "M") and value in ("help", "?"):
        return "Supported machines are:\npc       by name only (default)\nnone     no machine\n"
    return None


def _devices() -> str:
    lines = []
    for name in sorted(CONTROLLERS | DISKS | CDROMS):
        if name not in _ALIASES.values() and not name.endswith("-ccw"):
            alias = f', alias "{_ALIASES[name]}"' if name in _ALIASES else ""
            lines.append(f'name "{name}"{alias}\n')
    return "".join(lines)


def _formats() -> str:
    names = " ".join(sorted(DRIVERS))
    return f"Supported formats: {names}\nSupported formats (read-only): {names}\n"
