"""Every option of qemu-system-x86_64, and which of them concern only a guest.

QEMU's counterpart: ``qemu-options.hx``.
"""

from __future__ import annotations

from typing import Final

GUEST_SWITCHES: Final = frozenset(
    {
        "async-teardown",
        "audio-help",
        "enable-kvm",
        "enable-sync-profile",
        "full-screen",
        "mem-prealloc",
        "no-acpi",
        "no-fd-bootchk",
        "no-hpet",
        "no-reboot",
        "no-shutdown",
        "no-user-config",
        "nodefaults",
        "nographic",
        "only-migratable",
        "portrait",
        "s",
        "singlestep",
        "usb",
        "win2k-hack",
        "xen-attach",
        "xen-domid-restrict",
    }
)
GUEST_GROUPS: Final = frozenset(
    {
        "accel",
        "action",
        "audiodev",
        "fsdev",
        "fw_cfg",
        "global",
        "icount",
        "machine",
        "name",
        "net",
        "netdev",
        "nic",
        "numa",
        "option-rom",
        "overcommit",
        "plugin",
        "rtc",
        "sandbox",
        "semihosting-config",
        "spice",
        "tpmdev",
        "trace",
        "virtfs",
        "vnc",
    }
)
"""Those with an argument of members, which ``-readconfig`` and ``-set`` know by the same name."""
GUEST_OPTIONS: Final = GUEST_GROUPS | frozenset(
    {
        "acpitable",
        "append",
        "audio",
        "bios",
        "boot",
        "compat",
        "cpu",
        "d",
        "D",
        "debugcon",
        "dfilter",
        "display",
        "dtb",
        "dump-vmstate",
        "echr",
        "g",
        "gdb",
        "initrd",
        "k",
        "kernel",
        "L",
        "m",
        "M",
        "mem-path",
        "parallel",
        "prom-env",
        "qtest-log",
        "rotate",
        "seed",
        "serial",
        "smbios",
        "smp",
        "usbdevice",
        "uuid",
        "vga",
        "watchdog-action",
        "xen-domid",
    }
)
"""Those with an argument. What of them the machine reports is read by ``machine_words``."""

SWITCHES: Final = frozenset(
    {"help", "h", "version", "S", "daemonize", "preconfig", "snapshot", "testing", "testing-power"}
)
OPTIONS: Final = frozenset(
    {
        "add-fd",
        "blockdev",
        "cdrom",
        "chardev",
        "chroot",
        "device",
        "drive",
        "emulate",
        "fda",
        "fdb",
        "hda",
        "hdb",
        "hdc",
        "hdd",
        "incoming",
        "loadvm",
        "mon",
        "monitor",
        "msg",
        "mtdblock",
        "object",
        "pflash",
        "pidfile",
        "qmp",
        "qmp-pretty",
        "qtest",
        "readconfig",
        "record",
        "record-limit",
        "run-with",
        "runas",
        "sd",
        "set",
    }
)
"""Those with an argument that blkxact obeys; ``emulate`` and ``record`` are its own."""

REFUSED_OPTIONS: Final = frozenset({"iscsi"})
"""What would change what happens to disks, and cannot be done here."""

OBEYED_GROUPS: Final = frozenset({"drive", "chardev", "device", "mon", "object", "add-fd"})
"""Groups of members that concern more than a guest."""
GROUPS: Final = (
    OBEYED_GROUPS
    | GUEST_GROUPS
    | frozenset({"acpi", "boot-opts", "iscsi", "memory", "msg", "smp-opts"})
)
"""All groups; the last are those of other options than their names say, and of refused ones."""

OF_OTHER_TARGETS: Final = frozenset({"old-param", "semihosting"})
"""Options of QEMU for machines that are no PC."""


def takes_argument(name: str) -> bool | None:
    """Return whether an option takes an argument; None if there is no such option."""
    if name in OPTIONS or name in GUEST_OPTIONS or name in REFUSED_OPTIONS:
        return True
    if name in SWITCHES or name in GUEST_SWITCHES:
        return False
    return None
