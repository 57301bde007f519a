"""Properties of devices: their types, and how a command line and ``device_add`` read them.

Until QEMU 9.2 ``device_add`` takes its members as a command line has them: numbers and booleans
become texts, and a member of any other type counts as not given.

QEMU's counterpart: qemu_opts_from_qdict(), the keyval variant of ``qapi/qobject-input-visitor.c``,
``hw/core/qdev-properties.c``.
"""

from __future__ import annotations

import re
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
RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, UINT64_MAX),
    "int32": (-(2**31), 2**31 - 1),
}
"""Smallest and largest value of the types that are numbers."""
UINT32_MAX: Final = 2**32 - 1
PCI_ADDRESS: Final = "pci-address"
_PCI_ADDRESS: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)(?:\.(?:0[xX])?([0-9a-fA-F]+))?")
_SLOTS: Final = 32
_FUNCTIONS: Final = 8


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


def parse_property(model: str, name: str, kind: str, text: str) -> Any:
    """Return the value of a property of type ``kind`` of a device model. Raises ``QmpError``."""
    if kind == "bool":
        flag = parse_boolean(text)
        if flag is None:
            raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
        return flag
    if kind == PCI_ADDRESS:
        return parse_pci_address(model, name, text)
    if kind == "size":
        size = parse_size(text)
        if size is None:
            raise QmpError(f"Parameter '{name}' expects size")
        return check_size(model, name, size)
    if kind in RANGES:
        return _parse_number(name, kind, text)
    check_choice(name, kind, text)
    return text


def check_choice(name: str, kind: str, text: str) -> None:
    """Raise ``QmpError`` if ``kind`` is an enumeration that does not have this value."""
    if text not in _ENUMS.get(kind, (text,)):
        raise QmpError(f"Parameter '{name}' does not accept value '{text}'")


def check_size(model: str, name: str, size: int) -> int:
    """Return a size in bytes; raise ``QmpError`` if it is too large for a property."""
    if size > UINT32_MAX:
        raise QmpError(f"Property {model}.{name} doesn't take value {size} (maximum: {UINT32_MAX})")
    return size


def parse_pci_address(model: str, name: str, text: str) -> int:
    """Return the number of a slot and a function, both hexadecimal. Raises ``QmpError``."""
    found = _PCI_ADDRESS.fullmatch(text)
    slot, function = (int(digits or "0", 16) for digits in found.groups()) if found else (-1, 0)
    if not 0 <= slot < _SLOTS or function >= _FUNCTIONS:
        raise QmpError(f"Property '{model}.{name}' doesn't take value '{text}'")
    return slot * _FUNCTIONS + function


def _parse_number(name: str, kind: str, text: str) -> int:
    wide = "uint64" if kind == "uint64" else "int64"
    number = parse_integer(text, wide)
    if number is None:
        raise QmpError(f"Parameter '{name}' expects integer")
    low, high = RANGES[kind]
    if not low <= number <= high:
        raise QmpError(f"Parameter '{name}' expects {kind}_t")
    return number
