"""The words in which QEMU says what is wrong with a value.

A place is named twice: by its whole path (``actions[0].data.node``) and by its own name (``node``,
or ``null`` for an item of a list). Which of the two a message has differs from message to message
in QEMU, and so it does here.

QEMU's counterpart: the ``error_setg`` calls of ``qapi/qobject-input-visitor.c`` (whole path) and
``qapi/qapi-visit-core.c`` (own name).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .common import Integer
from .describe import Alternate, Array, Builtin, Enum, Type, Union_
from .limits import INT64_MAX, INT64_MIN, UINT64_MAX

_ABSENT = object()
_FITS = {"int64": (INT64_MIN, INT64_MAX), "uint64": (INT64_MIN, UINT64_MAX)}


class Place(NamedTuple):
    """Where something was expected. ``own`` is ``None`` for an item of a list."""

    path: str = ""
    own: str | None = None
    keyval: bool = False

    def member(self, name: str) -> Place:
        """Return the place of a member."""
        return Place(f"{self.path}.{name}" if self.path else name, name, self.keyval)

    def item(self, index: int) -> Place:
        """Return the place of an item of a list."""
        subscript = f".{index}" if self.keyval else f"[{index}]"
        return Place(self.path + subscript, None, self.keyval)

    def wrong_type(self, expected: str) -> str:
        """Return the message for a value of another type."""
        return f"Invalid parameter type for '{self.path or '<anonymous>'}', expected: {expected}"

    def expects(self, what: str) -> str:
        """Return the message for a value that cannot be made to fit."""
        return f"Parameter '{self.path}' expects {what}"


def missing(place: Place) -> str:
    """Return the message for a member that has to be given."""
    return f"Parameter '{place.path}' is missing"


def unexpected(place: Place) -> str:
    """Return the message for a member that the schema does not have."""
    return f"Parameter '{place.path}' is unexpected"


def nested_too_deeply(place: Place) -> str:
    """Return the message for an object inside of too many others."""
    return f"Parameter '{place.path}' is nested too deeply"


def complain(kind: Type, value: Any, place: Place) -> str:
    """Return QEMU's message for a ``value`` that is no ``kind``."""
    match kind:
        case Builtin() | Enum() if place.keyval and isinstance(value, (dict, list)):
            return f"Parameters '{place.path}.*' are unexpected"
        case Builtin(integer=Integer() as integer):
            return _complain_integer(integer, value, place)
        case Builtin(name="boolean") if place.keyval:
            return place.expects("'on' or 'off'")
        case Enum() if isinstance(value, str):
            return f"Parameter '{place.own or 'null'}' does not accept value '{value}'"
        case Union_(tag=tag) if isinstance(value, Mapping):
            return _complain_tag(value.get(tag, _ABSENT), place.member(tag))
    return _complain_type(kind, place)


def _complain_tag(value: Any, place: Place) -> str:
    return missing(place) if value is _ABSENT else complain(Enum(()), value, place)


def _complain_type(kind: Type, place: Place) -> str:
    match kind:
        case Builtin(name=name):
            return place.wrong_type(name)
        case Enum():
            return place.wrong_type("string")
        case Array():
            return place.wrong_type("array")
        case Alternate(name=name):
            return Place(place.own or "null").wrong_type(name)
        case _:
            return place.wrong_type("object")


def _complain_integer(integer: Integer, value: Any, place: Place) -> str:
    low, high = _FITS[integer.wide]
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return f"Parameter '{place.own or 'null'}' expects {integer.name}_t"
    if place.keyval:
        return place.expects("size" if integer.name == "size" else "integer")
    if integer.wide == "uint64":
        return place.expects("uint64")
    return place.wrong_type("integer")
