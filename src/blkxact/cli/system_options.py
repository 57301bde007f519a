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
GUEST_OPTIONS: Final = frozenset(
    {
        "accel",
        "acpitable",
        "action",
        "append",
        "audio",
        "audiodev",
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
        "fsdev",
        "fw_cfg",
        "g",
        "gdb",
        "global",
        "icount",
        "initrd",
        "k",
        "kernel",
        "L",
        "m",
        "M",
        "machine",
        "mem-path",
        "name",
        "net",
        "netdev",
        "nic",
        "numa",
        "option-rom",
        "overcommit",
        "parallel",
        "plugin",
        "prom-env",
        "qtest-log",
        "rotate",
        "rtc",
        "sandbox",
        "seed",
        "semihosting-config",
        "serial",
        "smbios",
        "smp",
        "spice",
        "tpmdev",
        "trace",
        "usbdevice",
        "uuid",
        "vga",
        "virtfs",
        "vnc",
        "watchdog-action",
        "xen-domid",
    }
)
"""Those with an argument. What of them the machine reports is read by ``machine_words``."""

SWITCHES: Final = frozenset({"help", "h", "version", "S", "daemonize"})
OPTIONS: Final = frozenset(
    {
        "add-fd",
        "blockdev",
        "cdrom",
        "chardev",
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
        "runas",
        "sd",
    }
)
"""Those with an argument that blkxact obeys; ``emulate`` is its own."""

REFUSED_SWITCHES: Final = frozenset({"snapshot", "preconfig"})
REFUSED_OPTIONS: Final = frozenset({"chroot", "iscsi", "loadvm", "set"})
"""What would change what happens to disks, and cannot be done here."""

OF_OTHER_TARGETS: Final = frozenset({"old-param", "semihosting"})
"""Options of QEMU for machines that are no PC."""


def takes_argument(name: str) -> bool | None:
    """Return whether an option takes an argument; None if there is no such option."""
    if name in OPTIONS or name in GUEST_OPTIONS or name in REFUSED_OPTIONS:
        return True
    if name in SWITCHES or name in GUEST_SWITCHES or name in REFUSED_SWITCHES:
        return False
    return None
