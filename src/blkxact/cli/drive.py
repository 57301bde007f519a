"""``-drive`` of qemu-system: words to ``DriveOptions``.

The words that concern the drive and its device are taken; all others are members of the medium's
BlockdevOptions.

QEMU's counterpart: drive_new() and blockdev_init() in ``blockdev.c``.
"""

from __future__ import annotations

import os
from typing import Any, Final

from blkxact.block.filename import nested
from blkxact.enums import BlockdevOnError
from blkxact.machine.options import FLASH_DEVICE, VIRTIO_DISK, DriveOptions
from blkxact.qapi.strings import parse_boolean
from blkxact.runtime.throttle.limits import MEMBERS, OLD_NAMES

from .errors import CliError
from .guest_members import check_values, number_of
from .identifier import check_identifier
from .keyval import parse_opts, parse_switch

_DEVICES: Final[dict[str, str | None]] = {
    "none": None,
    "pflash": FLASH_DEVICE,
    "virtio": VIRTIO_DISK,
    "ide": "ide-hd",
    "scsi": "scsi-hd",
    "floppy": "floppy",
}
"""The device of each ``if=``."""
_UNITS: Final = {"ide": 2, "scsi": 7}
"""How many units a bus has, where there are buses."""

_CACHE_MODES: Final = {
    "none": ("on", "on", "off"),
    "off": ("on", "on", "off"),
    "directsync": ("off", "on", "off"),
    "writeback": ("on", "off", "off"),
    "unsafe": ("on", "off", "on"),
    "writethrough": ("off", "off", "off"),
}
"""cache.writeback, cache.direct and cache.no-flush of each ``cache=``."""

_READ_ACTIONS: Final = frozenset(
    {BlockdevOnError.REPORT, BlockdevOnError.IGNORE, BlockdevOnError.STOP}
)
_WRITE_ACTIONS: Final = _READ_ACTIONS | {BlockdevOnError.ENOSPC}

_AIO: Final = frozenset({"threads", "native", "io_uring"})
_TEMPORARY: Final = "/var/tmp"  # noqa: S108 - names there are not guessed
_INTERVALS: Final = "stats-intervals."


class DriveParser:
    """Parses the drives of one command line; it numbers those without an id."""

    def __init__(self, default_interface: str = "ide", *, snapshot: bool = False) -> None:
        self._default_interface = default_interface
        self._snapshot = "on" if snapshot else "off"
        self._places: set[tuple[str, int, int]] = set()
        """Interface, bus and unit of each."""
        self._ids: set[str] = set()

    def parse(self, text: str) -> DriveOptions:
        """Return the drive that ``text`` describes; raises ``CliError``."""
        words = parse_opts(text)
        _rename(words, "readonly", "read-only")
        check_values("drive", words)
        interface = words.pop("if", self._default_interface)
        if interface not in _DEVICES:
            raise CliError(f"unsupported bus type '{interface}'")
        cdrom = _is_cdrom(words)
        drive_id = self._name(words, interface, cdrom=cdrom)
        write_cache = _take_cache(words)
        _drop_unused(words)
        more = {"snapshot_folder": self._take_snapshot(words), **_take_accounting(words)}
        more |= _take_copy_on_read(words, cdrom=cdrom)
        throttle_group = words.pop("throttling.group", words.pop("group", None))
        throttling = _take_limits(words)
        drive_format = words.pop("format", None)
        if drive_format is not None and "driver" in words:
            raise CliError("Cannot specify both 'driver' and 'format'")
        filename = words.pop("file", "")
        on_read_error = _action(words, "rerror", BlockdevOnError.REPORT, _READ_ACTIONS)
        on_write_error = _action(words, "werror", BlockdevOnError.ENOSPC, _WRITE_ACTIONS)
        members: dict[str, Any] = nested(words)
        if filename or members:
            members = {"auto-read-only": "on", **members}
        if cdrom and (filename or members):
            members = {"read-only": "on", **members}
        return DriveOptions(
            id=drive_id,
            filename=filename,
            format=drive_format or members.pop("driver", None),
            members=members,
            on_read_error=on_read_error,
            on_write_error=on_write_error,
            write_cache=write_cache,
            throttling=throttling,
            throttle_group=throttle_group,
            **more,
            device="ide-cd" if cdrom and interface == "ide" else _DEVICES[interface],
        )

    def _take_snapshot(self, words: dict[str, str]) -> str | None:
        """Return where a temporary overlay goes, if there is to be one; raise ``CliError``."""
        wanted = _flag(words, "snapshot", self._snapshot)
        return os.environ.get("TMPDIR", _TEMPORARY) if wanted else None

    def _name(self, words: dict[str, str], interface: str, *, cdrom: bool) -> str:
        """Take the drive's place; return its id, which is made of its place if it has none."""
        name = words.pop("id", None)
        if name is not None:
            check_identifier(name)
        bus, unit = self._place(words, interface)
        if name is None:
            media = ("-cd" if cdrom else "-hd") if interface in _UNITS else ""
            name = f"{interface}{bus if interface in _UNITS else ''}{media}{unit}"
        if name in self._ids:
            raise CliError(f"Duplicate ID '{name}' for drive")
        self._ids.add(name)
        return name

    def _place(self, words: dict[str, str], interface: str) -> tuple[int, int]:
        """Return bus and unit: those that are given, or the first that are free."""
        units = _UNITS.get(interface)
        index, unit = _number(words, "index", -1), _number(words, "unit", -1)
        bus = _number(words, "bus", 0)
        if index != -1:
            if bus != 0 or unit != -1:
                raise CliError("index cannot be used with bus and unit")
            bus, unit = divmod(index, units) if units else (0, index)
        elif unit == -1:
            unit = 0
            while (interface, bus, unit) in self._places:
                bus, unit = divmod(bus * units + unit + 1, units) if units else (bus, unit + 1)
        if units and unit >= units:
            raise CliError(f"unit {unit} too big (max is {units - 1})")
        if (interface, bus, unit) in self._places:
            raise CliError(f"drive with bus={bus}, unit={unit} (index={index}) exists")
        self._places.add((interface, bus, unit))
        return bus, unit


def _number(words: dict[str, str], name: str, default: int) -> int:
    return number_of(words.pop(name)) if name in words else default


def _rename(words: dict[str, str], old: str, new: str) -> None:
    if old not in words:
        return
    if new in words:
        raise CliError(f"'{new}' and its alias '{old}' can't be used at the same time")
    words[new] = words.pop(old)


def _is_cdrom(words: dict[str, str]) -> bool:
    media = words.pop("media", "disk")
    if media not in ("disk", "cdrom"):
        raise CliError(f"'{media}' invalid media")
    return media == "cdrom"


def _take_cache(words: dict[str, str]) -> bool:
    """Spell out ``cache=``; return whether writes may be cached."""
    mode = words.pop("cache", None)
    if mode is not None:
        if mode not in _CACHE_MODES:
            raise CliError("invalid cache option")
        names = ("cache.writeback", "cache.direct", "cache.no-flush")
        for name, value in zip(names, _CACHE_MODES[mode], strict=True):
            words.setdefault(name, value)
    return words.pop("cache.writeback", "on") == "on"


def _take_limits(words: dict[str, str]) -> dict[str, int]:
    """Return ``throttling.*``, which may go by their old names; raise ``CliError``."""
    names = {f"throttling.{name}": name for name in MEMBERS}
    for old, new in OLD_NAMES.items():
        if not old.endswith("_length"):
            _rename(words, old, f"throttling.{new}")
    check_values("drive", words)
    return {names[name]: number_of(words.pop(name)) for name in names.keys() & words.keys()}


def _flag(words: dict[str, str], name: str, default: str = "on") -> bool:
    """Take a flag; raise ``CliError``."""
    value = parse_boolean(words.pop(name, default))
    if value is None:
        raise CliError(f"Parameter '{name}' expects 'on' or 'off'")
    return value


def _take_copy_on_read(words: dict[str, str], *, cdrom: bool) -> dict[str, Any]:
    """Return the members of DriveOptions about copies of what is read; raise ``CliError``."""
    wanted = _flag(words, "copy-on-read", "off")
    if wanted and (cdrom or parse_boolean(words.get("read-only", "off"))):
        return {"warning": "disabling copy-on-read on read-only drive"}
    return {"copy_on_read": wanted}


def _take_accounting(words: dict[str, str]) -> dict[str, Any]:
    """Return the members of DriveOptions about statistics; raise ``CliError``."""
    flags = {
        f"account_{one}": _flag(words, f"stats-account-{one}") for one in ("invalid", "failed")
    }
    given = {name: words.pop(name) for name in list(words) if name.startswith(_INTERVALS)}
    values: list[str] = []
    while (name := f"{_INTERVALS}{len(values)}") in given:
        values.append(given.pop(name))
    if given:
        raise CliError(f"Invalid option {next(iter(given))}")
    return {**flags, "stats_intervals": tuple(values)}


def _drop_unused(words: dict[str, str]) -> None:
    """Drop what has no effect here; refuse what is wrong in it."""
    aio = words.pop("aio", "threads")
    if aio not in _AIO:
        raise CliError("invalid aio option")
    if aio == "native" and not parse_switch("cache.direct", words.get("cache.direct", "off")):
        raise CliError(
            "aio=native was specified, but it requires cache.direct=on, which was not specified."
        )


def _action(
    words: dict[str, str],
    name: str,
    default: BlockdevOnError,
    allowed: frozenset[BlockdevOnError],
) -> BlockdevOnError:
    given = words.pop(name, default)
    action = BlockdevOnError.named(given)
    if action not in allowed:
        kind = "read" if name == "rerror" else "write"
        raise CliError(f"'{given}' invalid {kind} error action")
    return action
