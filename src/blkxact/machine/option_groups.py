"""The options of the command line that have parameters, and the parameters' types.

All that QEMU has are listed, also those that do nothing here. Management programs ask for them
(``query-command-line-options``), and others are refused on the command line.

QEMU's counterpart: the ``QemuOptsList`` of each option, ``util/qemu-config.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from blkxact.qapi.versions import has_option
from blkxact.runtime.release import Release

_LIMITS: Final = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
_THROTTLING: Final = " ".join(
    f"throttling.{limit}{suffix}:number"
    for suffix in ("", "-max", "-max-length")
    for limit in _LIMITS
)

OPTION_GROUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "accel": "",
        "acpi": "",
        "action": "reboot:string shutdown:string panic:string watchdog:string",
        "add-fd": "fd:number set:number opaque:string",
        "boot-opts": (
            "order:string once:string menu:boolean splash:string splash-time:number "
            "reboot-timeout:number strict:boolean"
        ),
        "chardev": (
            "backend:string path:string host:string port:string fd:string ipv4:boolean "
            "ipv6:boolean server:boolean wait:boolean localaddr:string localport:string to:number "
            "delay:boolean nodelay:boolean reconnect:number "
            "reconnect-ms:number telnet:boolean tn3270:boolean "
            "tls-creds:string tls-authz:string websocket:boolean width:number height:number "
            "cols:number rows:number mux:boolean signal:boolean name:string debug:number "
            "size:size chardev:string append:boolean logfile:string logappend:boolean "
            "mouse:boolean clipboard:boolean tight:boolean abstract:boolean"
        ),
        "device": "",
        "drive": (
            "node-name:string driver:string format:string file:string if:string media:string "
            "index:number bus:number unit:number read-only:boolean auto-read-only:boolean "
            "force-share:boolean discard:string detect-zeroes:string aio:string "
            "cache.writeback:boolean cache.direct:boolean cache.no-flush:boolean "
            "snapshot:boolean rerror:string werror:string throttling.group:string "
            "throttling.iops-size:number "
            f"stats-account-invalid:boolean stats-account-failed:boolean {_THROTTLING}"
        ),
        "fsdev": (
            "fsdriver:string path:string security_model:string writeout:string readonly:boolean "
            "multidevs:string socket:string sock_fd:number fmode:number dmode:number "
            f"throttling.iops-size:number {_THROTTLING}"
        ),
        "fw_cfg": "name:string file:string string:string gen_id:string",
        "global": "driver:string property:string value:string",
        "icount": (
            "shift:string align:boolean sleep:boolean rr:string rrfile:string rrsnapshot:string"
        ),
        "iscsi": (
            "user:string password:string password-secret:string header-digest:string "
            "initiator-name:string timeout:number"
        ),
        "machine": (
            "type:string accel:string kernel_irqchip:boolean kvm_shadow_mem:size kernel:string "
            "initrd:string append:string dtb:string dumpdtb:string phandle_start:number "
            "dt_compatible:string dump-guest-core:boolean mem-merge:boolean usb:boolean "
            "firmware:string iommu:boolean suppress-vmdesc:boolean aes-key-wrap:boolean "
            "dea-key-wrap:boolean loadparm:string"
        ),
        "memory": "size:size slots:number maxmem:size",
        "mon": "mode:string chardev:string pretty:boolean",
        "msg": "timestamp:boolean guest-name:boolean",
        "name": "guest:string process:string debug-threads:boolean",
        "net": "",
        "netdev": "",
        "nic": "",
        "numa": "",
        "object": "",
        "option-rom": "bootindex:number romfile:string",
        "overcommit": "mem-lock:boolean cpu-pm:boolean",
        "plugin": "",
        "rtc": "base:string clock:string driftfix:string",
        "run-with": "async-teardown:boolean chroot:string exit-with-parent:boolean user:string",
        "sandbox": (
            "enable:boolean obsolete:string elevateprivileges:string spawn:string "
            "resourcecontrol:string"
        ),
        "smbios": "",
        "smp-opts": (
            "cpus:number sockets:number dies:number clusters:number cores:number threads:number "
            "maxcpus:number"
        ),
        "tpmdev": "",
        "trace": "enable:string events:string file:string",
        "virtfs": (
            "fsdriver:string path:string mount_tag:string security_model:string writeout:string "
            "readonly:boolean socket:string sock_fd:number multidevs:string fmode:number "
            "dmode:number"
        ),
        "vnc": (
            "vnc:string websocket:string tls-creds:string share:string display:string "
            "head:number connections:number to:number ipv4:boolean ipv6:boolean password:boolean "
            "password-secret:string reverse:boolean lock-key-sync:boolean key-delay-ms:number "
            "sasl:boolean tls-authz:string sasl-authz:string lossy:boolean non-adaptive:boolean "
            "audiodev:string power-control:boolean"
        ),
    }
)
"""Parameters and their types by option; none where QEMU lists none."""


def parameters(group: str, release: Release | None = None) -> dict[str, str]:
    """Return the types of a group's parameters by their names; with None those of all releases."""
    words = (word.partition(":") for word in OPTION_GROUPS[group].split())
    return {
        name: kind
        for name, _, kind in words
        if release is None or has_option(f"{group}.{name}", release)
    }


def groups(release: Release) -> list[str]:
    """Return the options that a release has."""
    return [option for option in OPTION_GROUPS if has_option(option, release)]
