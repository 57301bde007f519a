"""Results of commands are what query-qmp-schema says of them."""

from __future__ import annotations

from collections.abc import Mapping

from blkxact.qapi.describe import Array, Builtin, Enum, Member, Struct, Type, Union_
from blkxact.qapi.notation import returned
from blkxact.qapi.returns import RETURNS

PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def check_result(command: str, result: object) -> None:
    """Fail if a result is not of the type that the schema has for it, where it has one."""
    if command in RETURNS:
        check(returned(command), result, command)


def check(kind: Type, value: object, where: str) -> None:
    match kind, value:
        case Builtin(name="any"), _:
            pass
        case Builtin(name=name), _:
            assert isinstance(value, PYTHON[name]), f"{where}: {value!r} is no {name}"
            assert name == "boolean" or not isinstance(value, bool), f"{where} is a boolean"
        case Enum(values=values), _:
            assert value in values, f"{where}: {value!r} is none of {values}"
        case Array(item=item), list():
            for each in value:
                check(item, each, f"{where}[]")
        case Struct(), dict():
            check_members(kind.members, value, where)
        case Union_(tag=tag, branches=branches, base=base), dict():
            chosen = branches[value[tag]].members
            check_members({**(base.members if base else {}), **chosen}, value, where)
        case _:
            raise AssertionError(f"{where}: {value!r} is no {kind}")


def check_members(members: Mapping[str, Member], value: dict[str, object], where: str) -> None:
    missing = [name for name, one in members.items() if not one.optional and name not in value]
    assert not missing, f"{where} lacks {missing}"
    for name, each in value.items():
        assert name in members, f"{where} has {name}, which the schema has not"
        check(members[name].type, each, f"{where}.{name}")
