"""What a message asks for: the members of a request, and how large they may be.

QEMU has no limits for these members. Here they are checked, and sent back, in one go, so there must
be some; a transaction of 5,000 actions is within them.

QEMU's counterpart: ``qapi/qmp-dispatch.c`` (qmp_dispatch_check_obj), whose words the errors are.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from blkxact.errors import QmpError

MAX_ARGUMENT_VALUES: Final = 64 << 10
"""Strings, numbers, lists and so on in ``arguments``: 50 ms to check."""
MAX_ID_VALUES: Final = 4 << 10
"""The same in ``id``, which is sent back with the reply."""
MAX_ID_TEXT: Final = 64 << 10
"""Characters in ``id``."""
MAX_MEMBERS: Final = 4 << 10
"""Members of one object: each that is not expected costs an error."""
LARGE: Final = 256 << 10
"""Weight of a message whose size is checked."""

NO_ID: Any = object()
"""The ``id`` of a request without one."""


class Request:
    """A command to run."""

    __slots__ = ("arguments", "id", "name", "oob", "weight")

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any] | None,
        oob: bool,
        id: Any = NO_ID,  # noqa: A002 - as above
        weight: int = 0,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.oob = oob
        self.id = id
        """Any JSON value, to be sent back with the answer."""
        self.weight = weight
        """Bytes of memory, roughly, that the message takes."""


class Message(NamedTuple):
    """What a client sent: a JSON value, or the description of the error if it was none.

    (The exception would keep the frames that it passed, and what they hold.)
    """

    value: Any
    weight: int
    error: str | None = None

    @property
    def is_out_of_band(self) -> bool:
        """Whether it is to overtake others."""
        value = self.value
        return isinstance(value, dict) and "exec-oob" in value and "execute" not in value


def check_envelope(message: Message, *, allow_oob: bool) -> Request:
    """Return the request that a message holds; raises ``QmpError``."""
    if message.error is not None:
        raise QmpError(message.error)
    members = message.value
    if not isinstance(members, dict):
        raise QmpError("QMP input must be a JSON object")
    name = None
    oob = False
    for member, value in members.items():
        if member == "execute" or (member == "exec-oob" and allow_oob):
            if not isinstance(value, str):
                raise QmpError(f"QMP input member '{member}' must be a string")
            if name is not None:
                raise QmpError("QMP input member 'execute' clashes with 'exec-oob'")
            name = value
            oob = member != "execute"
        else:
            _check_member(member, value)
    if name is None:
        raise QmpError("QMP input lacks member 'execute'")
    arguments = members.get("arguments")
    if message.weight > LARGE and not _arguments_fit(arguments):
        raise QmpError("QMP input member 'arguments' is too large")
    return Request(name, arguments, oob, members.get("id", NO_ID), message.weight)


def _check_member(member: str, value: Any) -> None:
    if member == "arguments":
        if not isinstance(value, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
    elif member != "id":
        raise QmpError(f"QMP input member '{member}' is unexpected")


def requested_capabilities(arguments: dict[str, Any] | None) -> set[str]:
    """Return what ``qmp_capabilities`` asks for; raises ``QmpError``."""
    members = dict(arguments or {})
    enable = members.pop("enable", [])
    if not isinstance(enable, list):
        raise QmpError("Invalid parameter type for 'enable', expected: array")
    for index, capability in enumerate(enable):
        if not isinstance(capability, str):
            raise QmpError(f"Invalid parameter type for 'enable[{index}]', expected: string")
        if capability != "oob":
            raise QmpError(f"Parameter 'null' does not accept value '{capability}'")
    for name in members:
        raise QmpError(f"Parameter '{name}' is unexpected")
    return set(enable)


def _arguments_fit(arguments: Any) -> bool:
    """Return whether ``arguments`` are small enough to be checked."""
    return _fits(arguments, MAX_ARGUMENT_VALUES, None)


def id_fits(id_: Any) -> bool:
    """Return whether an ``id`` is small enough to be sent back."""
    return _fits(id_, MAX_ID_VALUES, MAX_ID_TEXT)


def _fits(value: Any, values: int, text: int | None) -> bool:
    """Return whether so many values, with so many characters, are enough for a JSON value."""
    size = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, (dict, list)):
            values -= len(item)
            if values < 0 or (isinstance(item, dict) and len(item) > MAX_MEMBERS):
                return False
            if isinstance(item, dict):
                size += sum(map(len, item))
                todo.extend(item.values())
            else:
                todo.extend(item)
    return text is None or size <= text
