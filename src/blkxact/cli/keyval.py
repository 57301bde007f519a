"""Option strings: ``driver=qcow2,file.driver=file,file.filename=a,,b.qcow2``.

Invariants:

* ``parse_keyval`` is the newer syntax (``--blockdev``, ``--object``, ``--export``): dots make
  objects, numbers between dots make lists, a value ends at a single comma and a doubled comma is
  one. Every leaf is a text; ``qapi.validation.validate_keyval`` gives the leaves their types.
* ``parse_opts`` is the older one (``--chardev``, ``-drive``, ``-device``): a flat list of names,
  where a name alone is a switch that is ``on``, or ``off`` if it starts with ``no``.

QEMU's counterpart: ``util/keyval.c``, ``util/qemu-option.c``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from blkxact.errors import QmpError
from blkxact.qapi.dotted import Path, descend, with_lists

from .errors import CliError

MAX_FRAGMENT: Final = 127
MAX_DEPTH: Final = 128
"""Parts of one key."""

# Patterns; ``re`` compiles each when it is first used, and keeps it.
_FRAGMENT = r"(?:__[A-Za-z0-9.-]*_)?[A-Za-z][A-Za-z0-9_-]*"
_INDEX = r"[0-9]+"
_VALUE = r"(?:[^,]|,,)*"
_HEAD = r"[^=,]*"
_HELP = ("help", "?")


def parse_keyval(text: str, implied_key: str | None = None) -> dict[str, Any]:
    """Return the object that ``text`` describes, with texts as leaves.

    The first word may lack its key, which is ``implied_key``. Raises ``QmpError`` in QEMU's words.
    """
    root: dict[str, Any] = {}
    position = 0
    while position < len(text):
        head = _match(_HEAD, text, position)
        position += len(head)
        if text.startswith("=", position):
            raw = _match(_VALUE, text, position + 1)
            position += 1 + len(raw)
            _put(root, head, raw.replace(",,", ","))
        elif head in _HELP:
            raise QmpError("Help is not available for this option")
        elif head and implied_key:
            _put(root, implied_key, head)
        else:
            _fragments(head)
            raise QmpError(f"Expected '=' after parameter '{head}'")
        position += 1  # the comma
        implied_key = None
    members: dict[str, Any] = with_lists(root, _is_list)  # a first fragment is never a number
    return members


def parse_opts(text: str, implied_key: str | None = None) -> dict[str, str]:
    """Return the options of ``text`` in the older syntax; of a repeated one the last counts.

    The first word may be the value of ``implied_key``. Never raises.
    """
    options: dict[str, str] = {}
    position = 0
    while position < len(text):
        name = _match(_HEAD, text, position)
        if text.startswith("=", position + len(name)):
            position += len(name) + 1
        elif implied_key:
            name = implied_key
        else:
            switch = ("off", name[2:]) if name.startswith("no") else ("on", name)
            options[switch[1]] = switch[0]
            position += len(name) + 1
            continue
        raw = _match(_VALUE, text, position)
        options[name] = raw.replace(",,", ",")
        position += len(raw) + 1
        implied_key = None
    return options


def parse_switch(name: str, value: str) -> bool:
    """Return whether an option of the older syntax is on; raises ``CliError``."""
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise CliError(f"Parameter '{name}' expects 'on' or 'off'")


def _find(pattern: str, text: str, position: int) -> re.Match[str] | None:
    return re.compile(pattern).match(text, position)


def _match(pattern: str, text: str, position: int) -> str:
    found = _find(pattern, text, position)
    assert found is not None  # each of these patterns matches nothing as well
    return found[0]


def _fragments(key: str) -> list[str]:
    """Return the parts of a key, which are names or, but for the first, numbers."""
    fragments: list[str] = []
    position = 0
    while True:
        found = _find(_INDEX, key, position) if fragments else None
        found = found or _find(_FRAGMENT, key, position)
        if found is None or key[found.end() : found.end() + 1] not in ("", "."):
            raise QmpError(f"Invalid parameter '{key}'")
        if len(found[0]) > MAX_FRAGMENT:
            part = "" if found[0] == key else " fragment"
            raise QmpError(f"Parameter{part} '{found[0]}' is too long")
        fragments.append(found[0])
        if len(fragments) > MAX_DEPTH:
            raise QmpError(f"Parameter '{key}' is nested too deeply")
        if found.end() == len(key):
            return fragments
        position = found.end() + 1


def _put(root: dict[str, Any], key: str, value: str) -> None:
    """Set the leaf that ``key`` names; a leaf cannot be a container as well."""
    fragments = _fragments(key)
    *steps, last = (str(int(f)) if f[0].isdigit() else f for f in fragments)
    here = descend(root, steps, lambda depth: _inconsistent(".".join(fragments[:depth]) + "."))
    if isinstance(here.get(last), dict):
        raise _inconsistent(key + ".")
    here[last] = value


def _is_list(path: Path, names: Collection[str]) -> bool:
    """Return whether the members are numbers; raises ``QmpError`` where only some are."""
    numbers = [name for name in names if name[0].isdigit()]
    if not numbers:
        return False
    prefix = "".join(f"{name}." for name in path)
    if len(numbers) < len(names):
        raise _inconsistent(prefix)
    for index in range(len(numbers)):
        if str(index) not in names:
            raise QmpError(f"Parameter '{prefix}{index}' missing")
    return True


def _inconsistent(path: str) -> QmpError:
    return QmpError(f"Parameters '{path}*' used inconsistently")
