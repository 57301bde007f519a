"""What an emulator of the kit is made with: the marker's options, and the disks.

Invariant: an emulator that is restarted gets the same options, and the disks that were added since.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from blkxact.cli.emulate import check_release, default_release
from blkxact.cli.errors import CliError
from blkxact.cli.sizes import parse_size
from blkxact.enums import ActionCompletionMode
from blkxact.harness import Disk
from blkxact.machine.options import (
    ChardevSocket,
    CommandSet,
    DeviceOptions,
    MonitorOptions,
    ServeOptions,
    UnixAddress,
)
from blkxact.runtime.release import Release

from .errors import KitError

DEFAULT_SIZE: Final = "64M"
PROGRAMS: Final = {
    "system": CommandSet.SYSTEM,
    "storage-daemon": CommandSet.STORAGE_DAEMON,
    "all": CommandSet.ALL,
}
"""As whose command set clients see the emulator."""
LEFTOVERS: Final = (
    *("job", "node", "device", "export", "descriptor", "busy bitmap", "transaction"),
    "process",
)
"""What a test may not leave behind."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,30}")


@dataclass(slots=True)
class KitOptions:
    """The arguments of ``@pytest.mark.blkxact``, checked."""

    sizes: dict[str, int] = field(default_factory=dict)
    """The disks that are there from the start: name to bytes."""
    release: Release = field(default_factory=default_release)
    completion_mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL
    command_set: CommandSet = CommandSet.SYSTEM
    leftovers: frozenset[str] = frozenset()
    """Kinds of ``LEFTOVERS`` that the test may leave behind."""
    loses_power: bool = False
    """Whether it is noted what is flushed, for ``lose_power``."""

    @property
    def has_devices(self) -> bool:
        """Whether the emulator has a guest with devices."""
        return self.command_set is not CommandSet.STORAGE_DAEMON

    def serve_options(self, socket: str, disks: Iterable[Disk]) -> ServeOptions:
        """Return what the daemon is started with."""
        options = ServeOptions(
            release=self.release,
            command_set=self.command_set,
            default_completion_mode=self.completion_mode,
        )
        chardev = ChardevSocket("qmp", UnixAddress(socket), server=True, wait=False)
        options.add("chardev", chardev)
        options.add("monitor", MonitorOptions("qmp"))
        for disk in disks:
            options.add("blockdev", disk.blockdev())
        for disk in disks if self.has_devices else ():
            options.add("device", DeviceOptions(disk.device_add(), is_json=True))
        return options


def read_options(
    *,
    disks: Mapping[str, str | int] | Iterable[str] = (),
    emulate: str | None = None,
    completion_mode: str = "individual",
    program: str = "system",
    leftovers: Iterable[str] = (),
    loses_power: bool = False,
) -> KitOptions:
    """Return the options that the marker's arguments stand for; raises ``KitError``."""
    if not isinstance(disks, Mapping):
        disks = dict.fromkeys(_names("disks", disks), DEFAULT_SIZE)
    kinds = _names("leftovers", leftovers)
    options = KitOptions(
        {name: read_size(name, size) for name, size in disks.items()},
        command_set=PROGRAMS[_one_of("program", program, PROGRAMS)],
        leftovers=frozenset(_one_of("leftovers", kind, LEFTOVERS) for kind in kinds),
        loses_power=bool(loses_power),
    )
    modes = [mode.value for mode in ActionCompletionMode]
    options.completion_mode = ActionCompletionMode(
        _one_of("completion_mode", completion_mode, modes)
    )
    if emulate is not None:
        try:
            options.release = check_release(str(emulate))
        except CliError as error:
            raise KitError(f"emulate={emulate!r}: {error}") from error
    return options


def read_size(name: str, size: str | int) -> int:
    """Return the size in bytes of the disk of that name; raises ``KitError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KitError(
            f"disk {name!r}: its name is that of its node and its file: a letter, then letters,"
            " digits, '-', '.' and '_', 31 at the most"
        )
    try:
        found = size if isinstance(size, int) else parse_size(str(size))
    except CliError as error:
        raise KitError(f"disk {name!r}: {error}") from error
    if found <= 0:
        raise KitError(f"disk {name!r}: its size is {found} bytes")
    return found


def _names(option: str, value: object) -> list[str]:
    """Return a list of names; a single name would be one of its letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise KitError(f"{option}={value!r}: this is not a list of names")
    return list(value)


def _one_of(option: str, value: str, values: Iterable[str]) -> str:
    if value not in values:
        raise KitError(f"{option}={value!r}: there are {', '.join(values)}")
    return value
