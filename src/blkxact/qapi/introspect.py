"""The schema that ``query-qmp-schema`` returns, made from the models.

Invariants:

* Commands, events and builtin types have their names; other types have numbers that mean nothing,
  so that nobody comes to depend on them.
* A union is described as QEMU does it: the members that all branches have, the tag, and for each
  case a type with what is left.
QEMU's counterpart: ``qapi/introspect.json``, ``scripts/qapi/introspect.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final

from blkxact.runtime.release import DEFAULT_RELEASE, Release

from .common import NoArguments
from .describe import Alternate, Array, Builtin, Enum, Member, Struct, Type, Union_, describe
from .events import EVENTS
from .features import FEATURES, VALUE_FEATURES, member_features
from .notation import returned
from .versions import absent_kind, chooses, exists, has_features, is_optional

_BUILTINS: Final = {
    "string": "str",
    "boolean": "bool",
    "number": "number",
    "integer": "int",
    "null": "null",
    "any": "any",
}
_JSON_TYPES: Final = {
    "str": "string",
    "bool": "boolean",
    "number": "number",
    "int": "int",
    "null": "null",
    "any": "value",
}


def schema(
    commands: Mapping[str, Any],
    *,
    out_of_band: Container[str] = (),
    release: Release = DEFAULT_RELEASE,
) -> list[dict[str, Any]]:
    """Return the SchemaInfo of every command (name to model), every event and all their types.

    ``out_of_band`` has the commands that may be. Members are those of the ``release``.
    """
    types = _Types(release)
    infos: list[dict[str, Any]] = []
    for name, model in commands.items():
        info: dict[str, Any] = {
            "name": name,
            "meta-type": "command",
            "arg-type": types.name(describe(model or NoArguments)),
            "ret-type": types.name(returned(name)),
        }
        if name in out_of_band:
            info["allow-oob"] = True
        features = FEATURES.get(name) if has_features(name, release) else None
        infos.append(_with_features(info, features))
    infos += (
        {"name": name, "meta-type": "event", "arg-type": types.name(describe(model))}
        for name, model in EVENTS.items()
    )
    return infos + types.infos()


def _with_features(info: dict[str, Any], features: list[str] | None) -> dict[str, Any]:
    return info | {"features": features} if features else info


class _Types:
    """Gives each type a name when it is first mentioned, and describes each once."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._names: dict[Any, str] = {}
        self._infos: list[dict[str, Any]] = []

    def infos(self) -> list[dict[str, Any]]:
        """Return the SchemaInfo of all types that were mentioned, and of the builtin ones."""
        builtins = (
            {"name": name, "meta-type": "builtin", "json-type": json_type}
            for name, json_type in _JSON_TYPES.items()
        )
        return [*self._infos, *builtins]

    def name(self, kind: Type) -> str:
        """Return the name of a type."""
        match kind:
            case Builtin(name=name):
                return _BUILTINS[name]
            case Array(item=item):
                name = f"[{self.name(item)}]"
                return self._add(
                    name, name, lambda: {"meta-type": "array", "element-type": self.name(item)}
                )
            case Enum(values=values):
                return self._add(values, None, lambda: _enum(values))
            case Alternate(name=name, branches=branches):
                return self._add(("alternate", name), None, lambda: self._alternate(branches))
            case Struct():
                return self._struct(kind, frozenset())
        return self._add(("union", *kind.branches.items()), None, lambda: self._union(kind))

    def _add(self, key: Any, name: str | None, info: Callable[[], dict[str, Any]]) -> str:
        """Return the name of the type with that key; add what ``info`` returns, the first time."""
        if key not in self._names:
            name = self._names[key] = name or str(len(self._names))
            entry: dict[str, Any] = {"name": name}
            self._infos.append(entry)
            entry.update(info())  # after the name is known, as types may be recursive
        return self._names[key]

    def _struct(self, struct: Struct, without: frozenset[str]) -> str:
        def describe_struct() -> dict[str, Any]:
            members = [each for name, each in struct.members.items() if name not in without]
            info = {"meta-type": "object", "members": self._members(members)}
            return _with_features(info, FEATURES.get(struct.name))

        return self._add((struct, without), None, describe_struct)

    def _union(self, union: Union_) -> dict[str, Any]:
        release = self._release
        tag = union.base.members[union.tag] if union.base else None
        if union.base and tag and not chooses(tag.full_name, release):
            plain = {**union.base.members, union.tag: tag._replace(type=Builtin("string"))}
            return {"meta-type": "object", "members": self._members(plain.values())}
        branches = {
            case: struct for case, struct in union.branches.items() if exists(struct.name, release)
        }
        cases = Member(union.tag, Enum(tuple(branches)), optional=False)
        base = {**(union.base.members if union.base else {}), union.tag: cases}
        without = frozenset(base)
        return {
            "meta-type": "object",
            "members": self._members(base.values()),
            "tag": union.tag,
            "variants": [
                {"case": case, "type": self._struct(struct, without)}
                for case, struct in branches.items()
            ],
        }

    def _alternate(self, branches: Mapping[str, Type]) -> dict[str, Any]:
        members = [{"type": self.name(kind)} for kind in branches.values()]
        return {"meta-type": "alternate", "members": members}

    def _members(self, members: Iterable[Member]) -> list[dict[str, Any]]:
        release = self._release
        return [self._member(member) for member in members if exists(member.full_name, release)]

    def _of_release(self, member: Member) -> Type:
        """Return the type of a member, an alternate maybe without a branch."""
        kind, absent = member.type, absent_kind(member.full_name, self._release)
        if not absent:
            return kind
        assert isinstance(kind, Alternate)
        (only,) = (branch for name, branch in kind.branches.items() if name != absent)
        return only

    def _member(self, member: Member) -> dict[str, Any]:
        kind = self._of_release(member)
        info: dict[str, Any] = {"name": member.name, "type": self.name(kind)}
        if is_optional(member.full_name, self._release, optional=member.optional):
            info["default"] = None
        return _with_features(info, member_features(member.full_name))


def _enum(values: tuple[str, ...]) -> dict[str, Any]:
    members = [_with_features({"name": value}, VALUE_FEATURES.get(value)) for value in values]
    return {"meta-type": "enum", "members": members, "values": list(values)}
