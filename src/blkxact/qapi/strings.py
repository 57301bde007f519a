"""Option strings: text at the leaves becomes what the model has there.

Invariants:

* What cannot be converted stays as it is, so that the validator finds it, in the schema's order.
* Only text is converted; what came from JSON and has its type already passes through.

QEMU's counterpart: the keyval variant of ``qapi/qobject-input-visitor.c``; ``qemu_strtosz`` and
``qemu_strtoi64`` in ``util/cutils.c``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from blkxact.qapi import sizes

from .common import json_kind
from .describe import Alternate, Array, Builtin, Struct, Type, Union_
from .limits import INT64_MAX, INT64_MIN, UINT64_MAX

MAX_DEPTH: Final = 128
"""Containers inside containers that are looked into; the validator gives up at 255."""

_BOOLEANS = dict.fromkeys(("on", "yes", "true", "y"), True) | dict.fromkeys(
    ("off", "no", "false", "n"), False
)
_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_MAX_DIGITS: Final = 100


def from_strings(kind: Type, value: Any, depth: int = 0) -> Any:
    """Return ``value`` with its texts converted to what ``kind`` has in their places."""
    match kind, value:
        case _ if depth > MAX_DEPTH:
            pass
        case Builtin(), str():
            value = _scalar(kind, value)
        case Array(item=item), list():
            value = [from_strings(item, each, depth + 1) for each in value]
        case Struct(), dict():
            value = _members(kind, value, depth)
        case Union_(tag=tag, branches=branches), dict() if isinstance(value.get(tag), str):
            branch = branches.get(value[tag])
            value = _members(branch, value, depth) if branch else value
        case Alternate(branches=branches), _ if json_kind(value) in branches:
            value = from_strings(branches[json_kind(value)], value, depth)
    return value


def _scalar(kind: Builtin, text: str) -> Any:
    if kind.name == "boolean":
        flag = parse_boolean(text)
        return text if flag is None else flag
    if kind.integer is None:
        return text
    is_size = kind.integer.name == "size"
    number = parse_size(text) if is_size else parse_integer(text, kind.integer.wide)
    return text if number is None else number


def _members(struct: Struct, value: dict[str, Any], depth: int) -> dict[str, Any]:
    members = struct.members
    return {
        name: from_strings(members[name].type, each, depth + 1) if name in members else each
        for name, each in value.items()
    }


def parse_boolean(text: str) -> bool | None:
    """Return what ``on``, ``no`` and their like mean; None for anything else."""
    return _BOOLEANS.get(text)


def parse_integer(text: str, wide: str) -> int | None:
    """Return the number that C reads, if all of ``text`` is one.

    ``wide`` is ``int64`` for ``strtoll`` and ``uint64`` for ``strtoull``.
    """
    found = _INTEGER.fullmatch(text)
    if found is None or len(text) > _MAX_DIGITS:
        return None
    sign, hexadecimal, octal, decimal = found.groups()
    number = int(hexadecimal or octal or decimal, 16 if hexadecimal else 8 if octal else 10)
    signed = -number if sign == "-" else number
    if wide == "int64":
        return signed if INT64_MIN <= signed <= INT64_MAX else None
    return signed & UINT64_MAX if number <= UINT64_MAX else None


def parse_size(text: str, unit: str = "b") -> int | None:
    """Return the bytes that ``text`` stands for; ``None`` if it is no ``size``."""
    size = sizes.parse_size(text, unit)
    return size if size is not None and size <= UINT64_MAX else None
