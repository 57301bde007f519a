"""Properties of devices: their types, and how ``device_add`` reads them.

``device_add`` takes its members as a command line has them: numbers and booleans become texts,
and a member of any other type counts as not given.

QEMU's counterpart: qemu_opts_from_qdict(), the keyval variant of ``qapi/qobject-input-visitor.c``,
``hw/core/qdev-properties.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.enums import BlockdevOnError, OnOffAuto
from blkxact.errors import QmpError
from blkxact.qapi.limits import UINT64_MAX
from blkxact.qapi.strings import parse_boolean, parse_integer, parse_size

_ENUMS: Final[Mapping[str, tuple[str, ...]]] = {
    "OnOffAuto": tuple(OnOffAuto),
    "BlockdevOnError": tuple(BlockdevOnError),
    "BiosAtaTranslation": ("auto", "none", "lba", "large", "rechs"),
    "FdcDriveType": ("144", "288", "120", "none", "auto"),
}
_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, UINT64_MAX),
    "int32": (-(2**31), 2**31 - 1),
}


def text_of(value: object) -> str | None:
    """Return the text of a member of ``device_add``; None if QEMU ignores a value of its type."""
    match value:
        case str():
            return value
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case float():
            return f"{value:.17g}"
    return None


def parse_property(name: str, kind: str, text: str) -> Any:
    """Return the value of a property of type ``kind``. Raises ``QmpError``."""
    if kind == "bool":
        flag = parse_boolean(text)
        if flag is None:
            raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
        return flag
    if kind in _ENUMS:
        if text not in _ENUMS[kind]:
            raise QmpError(f"Parameter '{name}' does not accept value '{text}'")
        return text
    if kind == "size":
        size = parse_size(text)
        if size is None:
            raise QmpError(f"Parameter '{name}' expects size")
        return size
    if kind in _RANGES:
        return _parse_number(name, kind, text)
    return text


def _parse_number(name: str, kind: str, text: str) -> int:
    wide = "uint64" if kind == "uint64" else "int64"
    number = parse_integer(text, wide)
    if number is None:
        raise QmpError(f"Parameter '{name}' expects integer")
    low, high = _RANGES[kind]
    if not low <= number <= high:
        raise QmpError(f"Parameter '{name}' expects {kind}_t")
    return number
