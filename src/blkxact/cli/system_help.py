"""What ``blkxact system`` answers to questions: its version, options, devices and machines.

QEMU's counterpart: ``help()`` and ``version()`` in ``softmmu/vl.c``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final

from blkxact.drivers import DRIVERS
from blkxact.machine.models import MODELS

from .version import version_text

USAGE_WIDTH: Final = 79
_ALIASES: Final = {"virtio-blk-pci": "virtio-blk", "virtio-scsi-pci": "virtio-scsi"}

USAGE: Final = """\
usage: {program} [options] [disk_image]

'disk_image' is the name of an image; it is a drive, as with -drive file=disk_image

Options that blkxact obeys; each may also have two dashes:
-h, -help       print this help and exit
-version        print the version and exit
-S              do not start the guest; 'cont' does

-blockdev [driver=]DRIVER,node-name=NODE[,...]
                add a block node, as blockdev-add
-drive [file=FILE][,if=TYPE][,format=FORMAT][,id=ID][,...]
                add a drive ('-drive format=help' lists the formats)
-device DRIVER[,id=ID][,drive=ID][,...]
                add a device ('-device help' lists them)
-object TYPE,id=ID[,...]
                add an object, as object-add

-qmp ADDRESS    a QMP monitor at unix:PATH, tcp:HOST:PORT or stdio, with ',server=on,wait=off'
-qmp-pretty ADDRESS
                the same; replies are indented
-chardev socket,id=ID,path=PATH[,server=on][,wait=off], -chardev stdio,id=ID
                a character device
-mon [chardev=]ID[,mode=control][,pretty=on]
                a QMP monitor on a character device
-monitor none   there is no human monitor but through human-monitor-command
-qtest ADDRESS  move the clock of the machine through this socket
-pidfile FILE   write the process ID to FILE

Ignored, since there is no machine:
{ignored}
"""


def usage(program: str, ignored: Iterable[str]) -> str:
    """Return the help of the whole command line."""
    names = " ".join(f"-{name}" for name in sorted(ignored))
    return USAGE.format(program=program, ignored=textwrap.fill(names, USAGE_WIDTH,
        break_on_hyphens=False))  # fmt: skip


def version() -> str:
    """Return what QEMU's ``-version`` prints, with the name of this program in it."""
    return version_text("QEMU emulator") + "\n"


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
    for name in sorted(MODELS):
        if name not in _ALIASES.values() and not name.endswith("-ccw"):
            alias = f', alias "{_ALIASES[name]}"' if name in _ALIASES else ""
            lines.append(f'name "{name}"{alias}\n')
    return "".join(lines)


def _formats() -> str:
    names = " ".join(sorted(DRIVERS))
    return f"Supported formats: {names}\nSupported formats (read-only): {names}\n"
