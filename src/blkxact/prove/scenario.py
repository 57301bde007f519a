"""The scenario: how the tool under test is called, and on which disks.

A TOML file becomes frozen models. A mistake in it is reported in one line that names the file, the
key and the reason (``ScenarioError``).

Words in braces in a command stand for:

============== ====================================================================
``{qmp}``      the QMP socket of the emulator
``{store}``    a directory for the tool's backups, empty at first
``{disk}``     the name of a disk (``restore`` only)
``{out}``      the raw file that ``restore`` has to write (``restore`` only)
``{disks}``    the names of all disks, with commas between
``{dir}``      the directory of the case: the disks' images are in it
``{here}``     the directory of the scenario's file
``{tool}``     the file ``client.tool``
``{python}``   the interpreter that runs blkxact
``{emulator}`` the program to start as the emulator (``emulator.start`` only)
``{shared}``   a directory that all cases of a sweep share (``emulator.start`` only)
============== ====================================================================
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from blkxact.harness import DEVICE

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PLACEHOLDER: Final = re.compile(r"(?<!\$)\{([a-z]+)\}")
OF_CALLS: Final = frozenset({"qmp", "store", "disks", "dir", "here", "tool", "python"})
OF_RESTORE: Final = OF_CALLS | {"disk", "out"}
OF_START: Final = OF_CALLS | {"emulator", "shared"}
MAX_DISK: Final = 1 << 30
"""Bytes: what is restored is read in each case."""
MIN_DISK: Final = 1 << 20
MAX_CYCLE: Final = 20


class ScenarioError(Exception):
    """The scenario has a mistake; the text is one line."""


def _check_words(key: str, command: str, allowed: frozenset[str]) -> None:
    """Check the placeholders of a command; raises ``ValueError``."""
    for name in _PLACEHOLDER.findall(command):
        if name not in allowed:
            known = ", ".join(f"{{{each}}}" for each in sorted(allowed))
            raise ValueError(f"{key}: there is no {{{name}}}; there are {known}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Emulated(_Model):
    """Which program is stood in for."""

    program: Literal["system", "storage-daemon"] = "system"
    emulate: str | None = None
    options: tuple[str, ...] = ()
    """More words for its command line."""
    start: str = ""
    """A command that lets somebody else start it, as libvirt; again whenever it has ended."""

    @model_validator(mode="after")
    def _started(self) -> Emulated:
        if self.start:
            _check_words("start", self.start, OF_START)
            if "{emulator}" not in self.start:
                raise ValueError("start: it has to name {emulator}, the program to start")
            if self.options or self.program != "system":
                raise ValueError("start: goes with neither options nor another program")
        return self


class Disk(_Model):
    """A disk of the guest: a node of that name, and a device with the id ``device-NAME``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,15}$")]
    size: int
    format: Literal["qcow2", "raw"] = "qcow2"
    device: str = DEVICE
    """The model of its device (``system`` only)."""
    bitmaps: tuple[Annotated[str, Field(min_length=1, max_length=1023)], ...] = ()
    """Persistent bitmaps that are in the image at first, as those of another tool."""
    backing: Literal["qcow2", "raw"] | None = None
    """The format of its backing file, which holds data of the guest; None: there is none."""

    @model_validator(mode="after")
    def _features(self) -> Disk:
        if self.format == "raw" and (self.bitmaps or self.backing):
            raise ValueError("a raw disk has neither bitmaps nor a backing file")
        if len(set(self.bitmaps)) < len(self.bitmaps):
            raise ValueError("two bitmaps have the same name")
        return self

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        found = re.fullmatch(r"(\d+)([KMG]?)", str(value))
        if found is None:
            raise ValueError("a size is a number and K, M or G: 64M")
        size = int(found[1]) * _UNITS[found[2]]
        if not MIN_DISK <= size <= MAX_DISK or size % MIN_DISK:
            raise ValueError("a disk has 1M to 1G, in whole M")
        return size


class Client(_Model):
    """How the tool is called."""

    tool: str = ""
    """A file, relative to the scenario's; ``--tool`` names another."""
    full: str
    incremental: str
    restore: str
    cycle: Annotated[
        tuple[Literal["full", "incremental"], ...], Field(min_length=1, max_length=MAX_CYCLE)
    ] = ("full", "incremental", "incremental")
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60
    """Seconds that a call may take."""
    idle: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Seconds in which neither the tool nor the emulator does anything, after which it hangs."""
    consistent: bool = True
    """Whether all disks have to be of one moment."""
    preload: tuple[str, ...] = ()
    """Modules; a command that begins with ``{python}`` is run in a fork that has loaded them."""

    @field_validator("full", "incremental", "restore")
    @classmethod
    def _words(cls, value: str) -> str:
        if not shlex.split(value):
            raise ValueError("the command is empty")
        return value

    @model_validator(mode="after")
    def _placeholders(self) -> Client:
        _check_words("full", self.full, OF_CALLS)
        _check_words("incremental", self.incremental, OF_CALLS)
        _check_words("restore", self.restore, OF_RESTORE)
        if "{out}" not in self.restore:
            raise ValueError("restore: it has to name {out}, the file to restore to")
        return self


class Scenario(_Model):
    """All of it. ``here`` is the directory of its file."""

    emulator: Emulated = Emulated()
    disk: Annotated[tuple[Disk, ...], Field(min_length=1, max_length=8)]
    client: Client
    here: str

    @model_validator(mode="after")
    def _names(self) -> Scenario:
        names = [disk.name for disk in self.disk]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two disks are called '{name}'")
        if len(names) > 1 and "{disk}" not in self.client.restore:
            raise ValueError("client.restore: it has to name {disk}, as there are several")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the disks."""
        return tuple(disk.name for disk in self.disk)

    @property
    def tool(self) -> str:
        """The path of the tool."""
        return str(Path(self.here, self.client.tool))

    def words(self, template: str, values: Mapping[str, str]) -> list[str]:
        """Return the words of a command with ``values`` in place of the placeholders."""
        return [
            _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word)
            for word in shlex.split(template)
        ]

    def files(self) -> list[Path]:
        """Return the files that the commands name: the tool itself, where it is a script."""
        values = {"here": self.here, "tool": self.tool}
        client = self.client
        commands = (self.emulator.start, client.full, client.incremental, client.restore)
        words = {word for command in commands for word in self.words(command, values)}
        paths = [Path(word) for word in sorted(words) if "{" not in word]
        return [path for path in paths if path.is_file()]


def load(path: Path, tool: Path | None = None) -> Scenario:
    """Read a scenario, with another ``tool`` if one is given.

    Raises ``ScenarioError`` or ``OSError``.
    """
    try:
        given = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    if "here" in given:
        raise ScenarioError(f"{path}: here: there is no such key")
    if tool is not None and isinstance(given.get("client"), dict):
        given["client"]["tool"] = str(tool.resolve())
    try:
        return Scenario.model_validate({**given, "here": str(path.resolve().parent)})
    except ValidationError as error:
        raise ScenarioError(f"{path}: {_first_of(error)}") from error


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = "there is no such key"
    elif first["type"] == "missing":
        reason = "it is missing"
    return f"{key}: {reason}" if key else reason
