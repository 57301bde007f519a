"""What ``blkxact serve`` was asked for: plain data between the command line and the daemon.

Invariants:

* The command line has checked the shape of each option and nothing else: a ``blockdev`` holds what
  ``blockdev-add`` would get as arguments, and is validated by the same model.
* Things are made in the order objects, blockdevs, drives, devices, nbd-server, exports, monitors,
  each list in the order given, so a thing can name one that was made before it.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c`` (process_options),
``qapi/control.json`` (MonitorOptions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from .enums import ActionCompletionMode, BlockdevOnError

SHUTDOWN_TIMEOUT_S: Final = 30.0
"""Seconds that a server has at the end to answer before its connection is cut."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket."""

    path: str


@dataclass(frozen=True, slots=True)
class InetAddress:
    """A TCP socket. ``host`` is a name or an address, never empty."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A socket that the process was started with."""

    fd: int


Address = UnixAddress | InetAddress | FdAddress


@dataclass(frozen=True, slots=True)
class ChardevSocket:
    """One ``--chardev socket,...``; it carries one monitor."""

    id: str
    address: Address
    server: bool = True
    """Listen for clients; otherwise connect to ``address`` once."""
    wait: bool = False
    """Do not go on with the start before a first client is connected (``server`` only)."""

    def __str__(self) -> str:
        """Return the name that ``query-chardev`` has for it."""
        match self.address:
            case UnixAddress(path):
                name = f"unix:{path}"
            case InetAddress(host, port):
                name = f"tcp:{host}:{port}"
            case FdAddress(fd):
                return f"fd:{fd}"
        return f"{name},server=on" if self.server else name


@dataclass(frozen=True, slots=True)
class ChardevStdio:
    """The process's own standard input and output."""

    id: str = "stdio"

    def __str__(self) -> str:
        """Return the name that ``query-chardev`` has for it."""
        return "stdio"


Chardev = ChardevSocket | ChardevStdio


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """One ``--monitor``: QMP on a chardev (MonitorOptions with ``mode=control``)."""

    chardev: str
    id: str | None = None
    pretty: bool = False


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """One ``-drive`` of qemu-system: a backend with a name, its medium, and maybe its device."""

    id: str
    filename: str = ""
    format: str | None = None
    """The driver; None: the options say it, or the image is probed."""
    members: dict[str, Any] = field(default_factory=dict)
    """Members of BlockdevOptions, nested; leaves may be texts. Nothing here and no filename: no
    medium."""
    on_read_error: BlockdevOnError = BlockdevOnError.REPORT
    on_write_error: BlockdevOnError = BlockdevOnError.ENOSPC
    write_cache: bool = True
    throttling: dict[str, int] = field(default_factory=dict)
    """Members of ThrottleLimits."""
    throttle_group: str | None = None
    """None: one of the drive's own name."""
    device: str | None = None
    """The model of the device that the drive is plugged into by ``if=``."""


class CommandSet(StrEnum):
    """Which of QEMU's programs this is, to a client that lists the commands."""

    SYSTEM = "system"
    """``qemu-system-x86_64``: all of its commands are known by name."""
    STORAGE_DAEMON = "storage-daemon"
    """``qemu-storage-daemon``: commands that need a guest are not found."""
    ALL = "all"
    """``blkxact serve``: what blkxact does, devices included."""


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What the command line says of the machine; it is reported, and has no other effect."""

    type: str = "none"
    """``-machine``: ``none``, or a name as ``query-machines`` lists it."""
    name: str | None = None
    """``-name``."""
    uuid: str = "00000000-0000-0000-0000-000000000000"
    """``-uuid``."""
    cpus: int = 0
    """``-smp``; a machine other than ``none`` has at least one."""
    memory: int = 0
    """``-m``, in bytes."""


@dataclass(slots=True)
class ServeOptions:
    """All that ``Daemon(options)`` needs to build an emulator."""

    blockdevs: list[dict[str, Any]] = field(default_factory=list)
    drives: list[DriveOptions] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    """Arguments of ``device_add``."""
    chardevs: dict[str, Chardev] = field(default_factory=dict)
    """By ``id``. Every monitor's ``chardev`` is among them."""
    monitors: list[MonitorOptions] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    """Arguments of ``object-add``: ``qom-type``, ``id`` and the type's members."""
    nbd_servers: list[dict[str, Any]] = field(default_factory=list)
    """Members of NbdServerOptions; a second server is refused when it is started."""
    exports: list[dict[str, Any]] = field(default_factory=list)
    """Arguments of ``block-export-add``."""
    qtest: Address | None = None
    """Where a test listens that wants to move the machine's clock."""
    console: bool = False
    """What requests of the guest have to say goes to standard output, not into replies."""
    paused: bool = False
    """The guest waits for ``cont``."""
    machine: MachineOptions = field(default_factory=MachineOptions)
    command_set: CommandSet = CommandSet.ALL
    texts: dict[str, list[str]] = field(default_factory=dict)
    """The words that things came from, by option (``blockdev``, ...), for error messages."""
    pidfile: str | None = None
    """Written and removed by the command line, around ``Daemon.run``."""
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S
    verbose: bool = False
    """Print what each transaction does on standard error, one line per step."""
    default_completion_mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL
    """For transactions that send no ``properties``."""
