"""Requests and results as one release of QEMU has them, by the table in ``versions.py``.

Models and handlers are the newest; members that do not exist in the release that is emulated are
refused in requests and left out of results. Types that no difference concerns are not looked into.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from blkxact.errors import QmpError
from blkxact.runtime.release import Release

from .common import NoArguments, json_kind
from .describe import Alternate, Array, Struct, Type, Union_, describe
from .validation import validate
from .versions import absent_kind, absent_members, exists, mentions

_ABSENT: Final = object()
"""Stands for a value of a branch that the release does not have."""


class ByRelease:
    """Filters for one release."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._absent = absent_members(release)
        self._differing: dict[Struct, bool] = {}
        self._models: dict[Any, Type | None] = {}
        """Top-level types by model or command; None: nothing of it differs."""

    def validate(
        self,
        model: Any,
        arguments: dict[str, Any],
        validator: Callable[[Any, dict[str, Any]], Any] = validate,
    ) -> Any:
        """Return what ``validator`` makes of a request. Raises ``QmpError``.

        A member that the release does not have is unexpected, which is found last, as in QEMU.
        """
        if not mentions(arguments, self._absent):
            return validator(model, arguments)
        kind = self._known(model, lambda: describe(model or NoArguments))
        if kind is None:
            return validator(model, arguments)
        refused: list[str] = []
        result = validator(model, self._strip(kind, arguments, "", refused))
        if refused:
            raise QmpError(refused[0])
        return result

    def result(self, command: str, result: Any) -> Any:
        """Return a result without the members that the release does not have."""
        kind = self._known(command, lambda: _returned(command))
        return result if kind is None else self._strip(kind, result, "", [])

    def _known(self, key: Any, load: Callable[[], Type]) -> Type | None:
        if key not in self._models:
            kind = load()
            self._models[key] = kind if self._differs(kind) else None
        return self._models[key]

    def _differs(self, kind: Type) -> bool:
        """Return whether something of a type does not exist in the release."""
        match kind:
            case Array(item=item):
                return self._differs(item)
            case Alternate(branches=branches):
                return any(map(self._differs, branches.values()))
            case Union_(branches=structs, base=base):
                if not all(exists(struct.name, self._release) for struct in structs.values()):
                    return True
                return any(map(self._differs, [*structs.values(), *([base] if base else [])]))
            case Struct():
                if kind not in self._differing:
                    self._differing[kind] = True  # of a type within itself: to be looked into
                    self._differing[kind] = any(
                        not exists(member.full_name, self._release)
                        or absent_kind(member.full_name, self._release)
                        or self._differs(member.type)
                        for member in kind.members.values()
                    )
                return self._differing[kind]
        return False

    def _strip(self, kind: Type, value: Any, path: str, refused: list[str]) -> Any:
        match kind, value:
            case Array(item=item), list():
                return [
                    self._strip(item, each, f"{path}[{index}]", refused)
                    for index, each in enumerate(value)
                ]
            case Struct(), dict() if self._differs(kind):
                return self._members(kind, value, path, refused)
            case Union_(tag=tag, branches=branches, base=base), dict():
                branch = branches.get(str(value.get(tag)))
                if branch is not None and not exists(branch.name, self._release):
                    return _ABSENT
                for struct in (base, branch):
                    value = self._strip(struct, value, path, refused) if struct else value
                return value
            case Alternate(branches=branches), _ if json_kind(value) in branches:
                return self._strip(branches[json_kind(value)], value, path, refused)
        return value

    def _members(
        self, struct: Struct, value: dict[str, Any], path: str, refused: list[str]
    ) -> dict[str, Any]:
        kept = type(value)()  # what is marked as in order remains so
        for name, each in value.items():
            member = struct.members.get(name)
            where = f"{path}.{name}" if path else name
            if member is None:
                kept[name] = each
            elif absent_kind(member.full_name, self._release) == json_kind(each):
                kind = _only_kind(member.type, json_kind(each))
                refused.append(f"Invalid parameter type for '{where}', expected: {kind}")
                kept[name] = each
            elif exists(member.full_name, self._release):
                stripped = self._strip(member.type, each, where, refused)
                if stripped is not _ABSENT:
                    kept[name] = stripped
            else:
                refused.append(f"Parameter '{where}' is unexpected")
        return kept


def _only_kind(kind: Type, absent: str) -> str:
    """Return the kind of JSON value that an alternate took before it took ``absent``."""
    assert isinstance(kind, Alternate)
    (only,) = kind.branches.keys() - {absent}
    return only


@cache
def of_release(release: Release) -> ByRelease:
    """Return the filters for a release."""
    return ByRelease(release)


def _returned(command: str) -> Type:
    from .notation import returned  # noqa: PLC0415 - results are read first when there is one

    return returned(command)
