"""Results of commands are what query-qmp-schema says of them."""

from __future__ import annotations

from collections.abc import Mapping

from blkxact.qapi.describe import Array, Builtin, Enum, Member, Struct, Type, Union_
from blkxact.qapi.notation import returned
from blkxact.qapi.returns import RETURNS
from blkxact.qapi.versions import exists, is_optional
from blkxact.runtime.release import Release

PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def check_result(command: str, result: object, release: Release) -> None:
    """Fail if a result is not of the type that the schema has for it, where it has one."""
    if command in RETURNS:
        Check(release).check(returned(command), result, command)


class Check:
    """The check for one release."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def check(self, kind: Type, value: object, where: str) -> None:
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
                    self.check(item, each, f"{where}[]")
            case Struct(), dict():
                self.check_members(kind.members, value, where)
            case Union_(tag=tag, branches=branches, base=base), dict():
                chosen = branches[value[tag]].members
                self.check_members({**(base.members if base else {}), **chosen}, value, where)
            case _:
                raise AssertionError(f"{where}: {value!r} is no {kind}")

    def check_members(
        self, members: Mapping[str, Member], value: dict[str, object], where: str
    ) -> None:
        missing = [
            name
            for name, one in members.items()
            if name not in value and not self.may_be_missing(one)
        ]
        assert not missing, f"{where} lacks {missing}"
        for name, each in value.items():
            assert name in members, f"{where} has {name}, which the schema has not"
            assert exists(members[name].full_name, self.release)
            self.check(members[name].type, each, f"{where}.{name}")

    def may_be_missing(self, member: Member) -> bool:
        name = member.full_name
        optional = is_optional(name, self.release, optional=member.optional)
        return optional or not exists(name, self.release)
