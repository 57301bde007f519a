"""What ``blkxact system`` answers to questions: its version, options, devices and machines.

QEMU's counterpart: ``help()`` and ``version()`` in ``softmmu/vl.c``, ``qdev_device_help()``.
"""

from __future__ import annotations

from typing import Final

from blkxact.runtime.release import RELEASES, Release

from .errors import CliError
from .system_options import GUEST_OPTIONS, GUEST_SWITCHES
from .version import version_text

USAGE_WIDTH: Final = 79
_ALIASES: Final = {"virtio-blk-pci": "virtio-blk", "virtio-scsi-pci": "virtio-scsi"}
_HELP: Final = ("help", "?")

_FIXED: Final = {
    **dict.fromkeys(
        ("machine", "M"),
        "Supported machines are:\n"
        "pc                   Standard PC (alias of pc-i440fx-7.2)\n"
        "pc-i440fx-7.2        Standard PC (default)\n"
        "q35                  Standard PC\n"
        "none                 empty machine\n",
    ),
    "accel": "Accelerators supported in QEMU binary:\ntcg\nkvm\n",
    "cpu": "Available CPUs:\nx86 qemu64\n",
    "chardev": "Available chardev backend types: \n  null\n  socket\n  stdio\n",
    "netdev": "Available netdev backend types:\n",
    "audiodev": "Available audio drivers:\nnone\n",
    "display": "Available display backend types:\nnone\n",
    "vga": "none                 no graphic card\n",
}
"""Answers that are always the same: what there is not is not listed."""
_OBJECTS: Final = ("iothread", "secret", "throttle-group", "tls-creds-x509")

USAGE: Final = """\
usage: {program} [options] [disk_image]

'disk_image' is the name of an image; it is a drive, as with -hda disk_image

Options that blkxact obeys; each may also have two dashes:
-h, -help       print this help and exit
-version        print the version and exit
-emulate VERSION
                be this QEMU: {releases} (default: $BLKXACT_EMULATE, or 7.2)
-record FILE    append what happens to FILE, for blkxact report
-record-limit SIZE
                the size at which that file ends (default 256M)
-testing        let clients order faults, pauses and time (x-blkxact-*), for tests
-testing-power  the same, and power failures; files are not really flushed
-S              do not start the guest; 'cont' does
-daemonize      go to the background once clients can connect
-pidfile FILE   write the process ID to FILE
-runas USER     become USER, or UID:GID, once all is open
-chroot DIR     make DIR the root directory then
-run-with [async-teardown=on|off][,chroot=DIR][,user=USER]
                the same, since QEMU 8.1

-blockdev [driver=]DRIVER,node-name=NODE[,...]
                add a block node, as blockdev-add
-drive [file=FILE][,if=TYPE][,format=FORMAT][,id=ID][,...]
                add a drive ('-drive format=help' lists the formats)
-hda FILE, -hdb, -hdc, -hdd, -cdrom FILE, -fda FILE, -fdb FILE
                short forms of -drive
-device DRIVER[,id=ID][,drive=ID][,...]
                add a device ('-device help' lists them, '-device DRIVER,help' its properties)
-object TYPE,id=ID[,...]
                add an object, as object-add

-qmp ADDRESS    a QMP monitor at unix:PATH, tcp:HOST:PORT or stdio, with ',server=on,wait=off'
-qmp-pretty ADDRESS
                the same; replies are indented
-monitor ADDRESS
                the same for the human monitor
-chardev socket,id=ID,path=PATH|host=HOST,port=PORT|fd=N[,server=on][,wait=off]
-chardev stdio,id=ID
                a character device
-mon [chardev=]ID[,mode=control|readline][,pretty=on]
                a monitor on a character device
-add-fd fd=N,set=ID[,opaque=TEXT]
                put a descriptor into an fd set
-readconfig FILE
                read options from FILE
-qtest ADDRESS  move the clock of the machine through this socket
-msg timestamp=on
                messages begin with the time

Accepted, and without effect as there is no guest:
{ignored}
"""


def usage(program: str) -> str:
    """Return the help of the whole command line."""
    import textwrap  # noqa: PLC0415 - only for this text

    names = " ".join(f"-{name}" for name in sorted(GUEST_OPTIONS | GUEST_SWITCHES))
    ignored = textwrap.fill(names, USAGE_WIDTH, break_on_hyphens=False)
    return USAGE.format(program=program, ignored=ignored, releases=", ".join(RELEASES))


def version(release: Release) -> str:
    """Return what QEMU's ``-version`` prints, with the name of this program in it."""
    return version_text("QEMU emulator", release) + "\n"


def help_for(name: str, value: str, where: str) -> str | None:
    """Return the answer if the option asks for help. Raises ``CliError`` for an unknown device."""
    first, _, rest = value.partition(",")
    if first in _HELP:
        if name == "device":
            return _devices()
        if name == "object":
            return "List of user creatable objects:\n" + "".join(f"  {o}\n" for o in _OBJECTS)
        return _FIXED.get(name)
    if name == "drive" and not {"format=help", "format=?"}.isdisjoint(value.split(",")):
        return _formats()
    if name == "device" and rest in _HELP:
        return _properties(first, where)
    return None


def _devices() -> str:
    from blkxact.machine.models import MODELS  # noqa: PLC0415 - only for this answer

    lines = ["Storage devices:\n"]
    for name in sorted(MODELS):
        if name not in _ALIASES.values() and not name.endswith("-ccw"):
            alias = f', alias "{_ALIASES[name]}"' if name in _ALIASES else ""
            lines.append(f'name "{name}", bus {MODELS[name].bus}{alias}\n')
    return "".join(lines)


def _properties(device: str, where: str) -> str:
    from blkxact.machine.models import MODELS  # noqa: PLC0415 - only for this answer

    if device not in MODELS:
        raise CliError(f"{where}: Device '{device}' not found", status=0)
    model = MODELS[device]
    lines = (f"  {name}=<{kind}>\n" for name, kind in sorted(model.properties.items()))
    return f"{model.name} options:\n" + "".join(lines)


def _formats() -> str:
    from blkxact.drivers import DRIVERS  # noqa: PLC0415 - only for this answer

    names = " ".join(sorted(DRIVERS))
    return f"Supported formats: {names}\nSupported formats (read-only): {names}\n"
