"""The options of a daemon: plain data between the command line and ``daemon.Daemon``.

Invariants:

* The command line has checked the shape of each option and nothing else: a ``blockdev`` holds what
  ``blockdev-add`` would get as arguments, and is validated by the same model.
* ``steps`` are done in their order, so a step can name only what an earlier one made. The storage
  daemon does them in the order of its words; qemu-system sorts them by kind.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c`` (process_options),
``qapi/control.json`` (MonitorOptions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from blkxact.enums import ActionCompletionMode, BlockdevOnError
from blkxact.errors import QmpError
from blkxact.runtime.record import Record, made
from blkxact.runtime.release import DEFAULT_RELEASE, Release

RECORD_LIMIT: Final = 256 << 20
"""Bytes of a record without ``--record-limit``."""
SHUTDOWN_TIMEOUT_S: Final = 30.0
"""Seconds that a server has at the end to answer before its connection is cut."""
CUT_OFF_INTERVAL_S: Final = 5.0
"""Seconds that servers have to answer once the shutdown timeout is over."""
LETTING_GO_TURNS: Final = 100
"""Turns of the loop in which a command has to release a node after its last request."""


class UnixAddress(NamedTuple):
    """A Unix socket."""

    path: str


class InetAddress(NamedTuple):
    """A TCP socket. ``host`` is a name or an address, never empty; ``port`` a number or a name."""

    host: str
    port: str
    to: int | None = None
    """The last port that will do, for a server."""
    ipv4: bool | None = None
    ipv6: bool | None = None


class FdAddress(NamedTuple):
    """A socket that the process was started with."""

    fd: int


Address = UnixAddress | InetAddress | FdAddress


class ChardevSocket(NamedTuple):
    """A chardev of the backend ``socket``; it carries one monitor."""

    id: str
    address: Address
    server: bool = True
    """Listen for clients; otherwise connect to ``address``."""
    wait: bool = False
    """Wait for a first client before the next step (``server`` only)."""
    reconnect_s: float = 0
    """Seconds until the next try to connect, after one that failed or a connection that was lost.

    0: connect once, and at once.
    """

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


class ChardevStdio(NamedTuple):
    """The process's own standard input and output."""

    id: str = "stdio"

    def __str__(self) -> str:
        """Return the name that ``query-chardev`` has for it."""
        return "stdio"


class ChardevUnused(NamedTuple):
    """A chardev that only a guest would use, or ``null``: nobody ever connects."""

    id: str
    backend: str

    def __str__(self) -> str:
        """Return the name that ``query-chardev`` has for it."""
        return self.backend


Chardev = ChardevSocket | ChardevStdio | ChardevUnused


class MonitorOptions(NamedTuple):
    """A monitor on a chardev (MonitorOptions)."""

    chardev: str
    id: str | None = None
    mode: Literal["control", "readline"] = "control"
    """QMP, or the human monitor."""
    pretty: bool = False


class FdSetEntry(NamedTuple):
    """A descriptor that the process was started with, put into an fd set (``-add-fd``)."""

    fd: int
    fdset_id: int
    opaque: str | None = None


VIRTIO_DISK: Final = "virtio-blk"
FLASH_DEVICE: Final = "cfi.pflash01"
"""Devices of ``if=virtio`` and ``if=pflash``."""


class DriveOptions(NamedTuple):
    """One ``-drive`` of qemu-system: a backend with a name, its medium, and maybe its device."""

    id: str
    filename: str = ""
    format: str | None = None
    """The driver; None: the options say it, or the image is probed."""
    members: Mapping[str, Any] = MappingProxyType({})
    """Members of BlockdevOptions, nested; leaves may be texts. Nothing here and no filename: no
    medium."""
    on_read_error: BlockdevOnError = BlockdevOnError.REPORT
    on_write_error: BlockdevOnError = BlockdevOnError.ENOSPC
    write_cache: bool = True
    copy_on_read: bool = False
    """What is read from backing files is copied into the image."""
    warning: str | None = None
    """What is to be reported when it is made."""
    throttling: Mapping[str, int] = MappingProxyType({})
    """Members of ThrottleLimits."""
    throttle_group: str | None = None
    """None: one of the drive's own name."""
    snapshot_folder: str | None = None
    """Where a temporary overlay takes what is written; None: the medium does."""
    stats_intervals: tuple[str, ...] = ()
    """Seconds of ``timed_stats``; texts that are checked when the medium is in."""
    account_invalid: bool = True
    account_failed: bool = True
    """What counts as an access."""
    device: str | None = None
    """The model of the device that the drive is plugged into by ``if=``."""


class DeviceOptions(NamedTuple):
    """One ``-device`` of qemu-system."""

    members: Mapping[str, Any]
    """The model, the id, the bus and properties."""
    is_json: bool
    """The properties have types; otherwise they are texts."""


def no_drives(text: str) -> DriveOptions:
    """Refuse: this program has no drives."""
    raise QmpError(f"-drive {text}: not supported")


class CommandSet(StrEnum):
    """Which of QEMU's programs this is, to a client that lists the commands."""

    SYSTEM = "system"
    """``qemu-system-x86_64``: all of its commands are known by name."""
    STORAGE_DAEMON = "storage-daemon"
    """``qemu-storage-daemon``: commands that need a guest are not found."""
    ALL = "all"
    """``blkxact serve``: what blkxact does, devices included."""


class MachineOptions(NamedTuple):
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
    accelerator: str = "tcg"
    """``-accel``: what the machine would run by, ``kvm``, ``qtest`` or ``tcg``."""


StepKind = Literal[
    "fd",
    "object",
    "chardev",
    "blockdev",
    "drive",
    "monitor",
    "device",
    "drive-device",
    "nbd-server",
    "export",
    "loadvm",
]


class Step(NamedTuple):
    """One thing to make, and the words on the command line that ask for it.

    ``value`` is an ``FdSetEntry``, ``Chardev``, ``MonitorOptions`` or ``DriveOptions``; for
    ``drive-device`` the drive's options, for ``loadvm`` the name of a snapshot; otherwise the
    arguments of the QMP command that makes the thing.
    """

    kind: StepKind
    value: Any
    where: str = ""


class ServeOptions(Record):
    """All that ``Daemon(options)`` needs to build one emulator."""

    steps: list[Step] = made(factory=list)
    program: str = "blkxact"
    """What messages on standard error begin with."""
    release: Release = DEFAULT_RELEASE
    qtest: Address | None = None
    """Where a test listens that wants to move the machine's clock."""
    parse_drive: Callable[[str], DriveOptions] = no_drives
    """Parses a drive that is added at run time (``drive_add``); raises ``QmpError``."""
    qtest_log: bool = True
    """What comes and goes there is logged on standard error."""
    clock_runs: bool = False
    """The machine's clock runs all the same: it has an accelerator that is not ``qtest``."""
    announce: bool = False
    """Report where clients can connect."""
    console: bool = False
    """The output of the guest's requests goes to standard output, not into replies."""
    paused: bool = False
    """The guest waits for its first ``cont``."""
    preconfig: bool = False
    """Devices are made, and the guest begins, with ``x-exit-preconfig``."""
    machine: MachineOptions = made(factory=MachineOptions)
    command_set: CommandSet = CommandSet.ALL
    pidfile: str | None = None
    """Written and removed by the command line, around ``Daemon.run``."""
    pidfile_first: bool = False
    """It is there before anything is made (qemu-system), not when all is (storage daemon)."""
    daemonize: bool = False
    run_as: str | None = None
    """User, or ``UID:GID``, that the process becomes when all is made."""
    chroot: str | None = None
    """Its root directory from then on."""
    exits_with_parent: bool = False
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S
    testing: bool = False
    """Clients find the commands ``x-blkxact-*``."""
    testing_power: bool = False
    """And can let the power fail: what is flushed is noted, and nothing is really flushed."""
    verbose: bool = False
    """Report on standard error, one line per step, what each transaction does."""
    log_file: str | None = None
    record: str | None = None
    """Append there what happens, as JSON lines."""
    record_limit: int = RECORD_LIMIT
    """Bytes at which that file ends."""
    message_times: bool = False
    """Messages begin with the time."""
    default_completion_mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL
    """For transactions that send no ``properties``."""

    def add(self, kind: StepKind, value: Any, where: str = "") -> None:
        """Add a step."""
        self.steps.append(Step(kind, value, where))

    def of(self, *kinds: StepKind) -> list[Any]:
        """Return the values of all steps of some kinds."""
        return [step.value for step in self.steps if step.kind in kinds]
