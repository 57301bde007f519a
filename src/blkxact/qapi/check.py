"""Values from the wire become what their type has for them: models, members of enumerations.

Invariants:

* The first error is raised, in the order in which the schema's members stand; members that the
  schema does not have come last in each object. Nothing is looked at after it.
* What checks a struct is made when the first value of it comes. So a node's options take the models
  of the drivers that it names, and no others.

QEMU's counterpart: ``qapi/qobject-input-visitor.c``, and the visitors that are made by
``scripts/qapi/visit.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

from .common import REQUIRED, Integer, fields_of, json_kind
from .describe import Alternate, Array, Builtin, Enum, Struct, Type, Union_
from .explain import Place, complain, missing, nested_too_deeply, unexpected
from .limits import UINT64_MAX

MAX_DEPTH: Final = 255
"""Objects inside of each other. More would be too many calls inside of each other for Python."""

Check: TypeAlias = Callable[[Any, int], Any]
"""Called with a value and the number of objects around it. Returns what the value becomes, or
raises ``BadValueError``."""


class BadValueError(Exception):
    """A value that is not what it should be. ``steps`` lead to its place, the innermost first."""

    def __init__(self, complaint: Callable[[Place], str], *steps: str | int) -> None:
        super().__init__(complaint)
        self._complaint = complaint
        self.steps = list(steps)

    def text(self, *, keyval: bool) -> str:
        """Return QEMU's message; ``keyval``: for an option string, which has words of its own."""
        place = Place(keyval=keyval)
        for step in reversed(self.steps):
            place = place.item(step) if isinstance(step, int) else place.member(step)
        return self._complaint(place)


def check_of(kind: Type) -> Check:
    """Return what checks values of a type."""
    return _MAKERS[type(kind)](kind)


def _bad(kind: Type, value: Any, *steps: str | int) -> BadValueError:
    return BadValueError(partial(complain, kind, value), *steps)


def _builtin(kind: Builtin) -> Check:
    if kind.integer is not None:
        return _integer(kind, kind.integer)
    if kind.name == "any":
        return lambda value, _depth: value
    return _scalar(kind)


def _integer(kind: Builtin, integer: Integer) -> Check:
    _, _, low, high = integer
    mask = UINT64_MAX if high == UINT64_MAX else -1

    def check(value: Any, _depth: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _bad(kind, value)
        return value & mask

    return check


_PYTHON_TYPES: Final[dict[str, Any]] = {
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "null": type(None),
}


def _scalar(kind: Builtin) -> Check:
    wanted = _PYTHON_TYPES[kind.name]
    excluded = bool if kind.name == "number" else ()

    def check(value: Any, _depth: int) -> Any:
        if not isinstance(value, wanted) or isinstance(value, excluded):
            raise _bad(kind, value)
        return value

    return check


def _enum(kind: Enum) -> Check:
    members = {str(value): value for value in kind.values}

    def check(value: Any, _depth: int) -> str:
        member = members.get(value) if isinstance(value, str) else None
        if member is None:
            raise _bad(kind, value)
        return member

    return check


def _array(kind: Array) -> Check:
    check_item = check_of(kind.item)

    def check(value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise _bad(kind, value)
        items: list[Any] = []
        try:
            for item in value:
                items.append(check_item(item, depth))  # noqa: PERF401 - its length is the index
        except BadValueError as error:
            error.steps.append(len(items))
            raise
        return items

    return check


def _alternate(kind: Alternate) -> Check:
    checks = {name: check_of(branch) for name, branch in kind.branches.items()}

    def check(value: Any, depth: int) -> Any:
        chosen = checks.get(json_kind(value))
        if chosen is None:
            raise _bad(kind, value)
        return chosen(value, depth)

    return check


def _union(kind: Union_) -> Check:
    def check(value: Any, depth: int) -> Any:
        tag = value.get(kind.tag) if isinstance(value, dict) else None
        branch = kind.branches.get(tag) if isinstance(tag, str) else None
        if branch is None:
            raise _bad(kind, value)
        return _struct(branch)(value, depth)

    return check


class _Member(NamedTuple):
    name: str
    attribute: str
    check: Check
    default: Any


@cache
def _struct(kind: Struct) -> Check:
    members: tuple[_Member, ...] | None = None
    model = kind.model
    assert model is not None

    def check(value: Any, depth: int) -> Any:
        nonlocal members
        if not isinstance(value, dict):
            raise _bad(kind, value)
        if depth > MAX_DEPTH:
            raise BadValueError(nested_too_deeply)
        if members is None:
            members = _members(kind)
        values: dict[str, Any] = {}
        given: list[str] = []
        name = ""
        try:
            for name, attribute, check_member, default in members:
                if name in value:
                    values[attribute] = check_member(value[name], depth + 1)
                    given.append(attribute)
                elif default is REQUIRED:
                    raise BadValueError(missing)  # noqa: TRY301 - its place is added below
                else:
                    values[attribute] = default
        except BadValueError as error:
            error.steps.append(name)
            raise
        if len(given) < len(value) and not model.is_open:
            raise BadValueError(
                unexpected, next(each for each in value if each not in kind.members)
            )
        return model.of_checked(values, frozenset(given))

    return check


def _members(kind: Struct) -> tuple[_Member, ...]:
    assert kind.model is not None
    return tuple(
        _Member(field.name, field.attribute, check_of(kind.members[field.name].type), field.default)
        for field in fields_of(kind.model).values()
    )


_MAKERS: Final[dict[type, Callable[[Any], Check]]] = {
    Builtin: _builtin,
    Enum: _enum,
    Array: _array,
    Alternate: _alternate,
    Union_: _union,
    Struct: _struct,
}
