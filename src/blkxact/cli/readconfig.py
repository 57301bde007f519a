"""``-readconfig``: a file of option groups, which become options with their arguments.

    [drive "disk0"]
      file = "disk0.qcow2"

is ``-drive id=disk0,file=disk0.qcow2``.

QEMU's counterpart: ``qemu_config_foreach()`` in ``util/qemu-config.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .errors import CliError
from .system_options import GROUPS

_NAMED: Final = re.compile(r'\[(?P<group>[^\s"\]]+) "(?P<id>[^"]+)"\]')
_NAMELESS: Final = re.compile(r"\[(?P<group>[^\]]+)\]")
_MEMBER: Final = re.compile(r'\s*(?P<name>\S+)\s*=\s*"(?P<value>[^"]*)"')
_OPTIONS: Final = {"boot-opts": "boot", "memory": "m", "smp-opts": "smp"}
"""Groups that have another name than their option."""


class Section(NamedTuple):
    """One section of the file: an option's name and its argument, in the older syntax."""

    option: str
    text: str
    place: str
    """``FILE:LINE``, of the last line of the section."""


def read_config(path: str) -> Iterator[Section]:
    """Yield the sections of a file. Raises ``CliError``."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise CliError(f"Could not open '{path}': {error.strerror}") from error
    group: str | None = None
    members: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        header = _NAMED.match(line) or _NAMELESS.match(line)
        if header is not None:
            if group is not None:
                yield from _section(group, members, f"{path}:{number - 1}")
            group = header["group"]
            members = {"id": header["id"]} if "id" in header.groupdict() else {}
            continue
        member = _MEMBER.match(line)
        place = f"{path}:{number}"
        if member is None:
            raise CliError("parse error", place=place)
        if group is None:
            raise CliError("no group defined", place=place)
        members[member["name"]] = member["value"]
    if group is not None:
        yield from _section(group, members, f"{path}:{len(lines)}")


def _section(group: str, members: dict[str, str], place: str) -> Iterator[Section]:
    if group not in GROUPS:
        raise CliError(f"There is no option group '{group}'")
    words = (f"{name}={value.replace(',', ',,')}" for name, value in members.items())
    yield Section(_OPTIONS.get(group, group), ",".join(words), place)
