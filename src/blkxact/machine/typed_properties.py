"""Properties of devices as JSON values: how ``device_add`` reads them since QEMU 9.2.

``-device`` has always read the properties of a JSON object so.

QEMU's counterpart: ``object_set_props_from_keyval()`` with ``from_json``,
``qapi/qobject-input-visitor.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blkxact.errors import QmpError
from blkxact.qapi.limits import INT64_MAX, INT64_MIN, UINT64_MAX

from .properties import PCI_ADDRESS, RANGES, check_choice, check_size, parse_pci_address


def check_property(model: str, name: str, kind: str, value: Any) -> Any:
    """Return the value of a property of type ``kind`` of a device model. Raises ``QmpError``."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise _mistyped(name, "boolean")
        return value
    if kind == "size":
        return check_size(model, name, _unsigned(name, value))
    if kind in RANGES:
        return _check_number(name, kind, value)
    if kind == PCI_ADDRESS:
        return _check_address(model, name, value)
    if not isinstance(value, str):
        raise _mistyped(name, "string")
    check_choice(name, kind, value)
    return value


def _mistyped(name: str, expected: str) -> QmpError:
    return QmpError(f"Invalid parameter type for '{name}', expected: {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unsigned(name: str, value: Any) -> int:
    """Return the number that 64 bits without a sign hold; a negative one is taken as it is."""
    if not _is_number(value) or not INT64_MIN <= value <= UINT64_MAX:
        raise QmpError(f"Parameter '{name}' expects uint64")
    return int(value) & UINT64_MAX


def _signed(name: str, value: Any) -> int:
    if not _is_number(value) or not INT64_MIN <= value <= INT64_MAX:
        raise _mistyped(name, "integer")
    return int(value)


def _check_number(name: str, kind: str, value: Any) -> int:
    read: Callable[[str, Any], int] = _signed if kind.startswith("int") else _unsigned
    number = read(name, value)
    low, high = RANGES[kind]
    if not low <= number <= high:
        raise QmpError(f"Parameter '{name}' expects {kind}_t")
    return number


def _check_address(model: str, name: str, value: Any) -> int:
    if isinstance(value, str):
        return parse_pci_address(model, name, value)
    if not _is_number(value):
        raise QmpError(f"Invalid parameter type for '{name}', expected int or str")
    number = _check_number(name, "int32", value)
    low, high = -1, 255
    if not low <= number <= high:
        raise QmpError(f"Parameter '{name}' expects a value between {low} and {high}")
    return number
