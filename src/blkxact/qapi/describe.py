"""What a model says about the wire, as a small tree.

Error texts, option strings and introspection are made from it.

Pydantic does the validating; this tree only answers "what should have been here?". It is read off
the models, so the schema stands in one place.

QEMU's counterpart: ``scripts/qapi/schema.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo

from blkxact.enums import QapiEnum

from . import common


@dataclass(frozen=True)
class Builtin:
    """A scalar: string, boolean, number, null, any, or one of the integers."""

    name: str
    integer: common.Integer | None = None


@dataclass(frozen=True)
class Enum:
    """A string out of a list."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Array:
    """A list of one type."""

    item: Type


@dataclass(frozen=True)
class Member:
    """A member of a struct."""

    name: str
    type: Type
    optional: bool
    owner: str = ""
    """The struct that declares it, which may be above the one that has it."""

    @property
    def full_name(self) -> str:
        """The name in tables of members: ``OWNER.NAME``."""
        return f"{self.owner}.{self.name}"


class Struct:
    """An object; its members are found when they are first asked for, as types may be recursive."""

    def __init__(
        self, name: str, load: Callable[[], dict[str, Member]], *, is_open: bool = False
    ) -> None:
        self.name = name
        self.is_open = is_open
        self._load = load

    @cached_property
    def members(self) -> dict[str, Member]:
        """The members by wire name, in the schema's order."""
        return self._load()


@dataclass(frozen=True)
class Union_:  # noqa: N801 - the name is taken
    """An object whose member ``tag`` says which struct it is."""

    tag: str
    branches: dict[str, Struct]
    base: Struct | None
    """The struct whose members, ``tag`` among them, all branches have; ``None`` if only that."""


@dataclass(frozen=True)
class Alternate:
    """A value whose JSON kind (see ``common.json_kind``) says which type it is."""

    name: str
    branches: dict[str, Type]


Type = Builtin | Enum | Array | Struct | Union_ | Alternate

_SCALARS: dict[Any, Builtin] = {
    str: Builtin("string"),
    bool: Builtin("boolean"),
    float: Builtin("number"),
    type(None): Builtin("null"),
    None: Builtin("null"),
    Any: Builtin("any"),
}


def describe(annotation: Any, marks: tuple[Any, ...] = ()) -> Type:
    """Return the type that a model, or the annotation of a field with its ``marks``, stands for."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return describe(inner, (*marks, *more))
    for mark in marks:
        if isinstance(mark, common.Integer):
            return Builtin("integer", mark)
        if isinstance(mark, common.Alternate):
            return Alternate(mark.name, dict(map(_tagged, get_args(annotation))))
        if isinstance(mark, Discriminator) and isinstance(mark.discriminator, str):
            return _union(mark.discriminator, get_args(annotation) or (annotation,))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _struct(annotation)
    return _plain(annotation)


def members_of(model: type[BaseModel]) -> dict[str, Member]:
    """Return the members of a model by wire name, in the schema's order."""
    return _struct(model).members


def _plain(annotation: Any) -> Type:
    if get_origin(annotation) is Literal:
        return Enum(tuple(map(str, get_args(annotation))))
    if isinstance(annotation, type) and issubclass(annotation, QapiEnum):
        return Enum(tuple(member.value for member in annotation))
    if get_origin(annotation) is list:
        return Array(describe(get_args(annotation)[0]))
    return _SCALARS[annotation]


@cache
def _struct(model: type[BaseModel]) -> Struct:
    is_open = model.model_config.get("extra") == "allow"
    return Struct(model.__name__, partial(_members, model), is_open=is_open)


def _members(model: type[BaseModel]) -> dict[str, Member]:
    model.model_rebuild()
    members = (_member(name, field, model) for name, field in model.model_fields.items())
    return {member.name: member for member in members}


def _member(name: str, field: FieldInfo, model: type[BaseModel]) -> Member:
    assert field.alias is not None
    kind = describe(field.annotation, tuple(field.metadata))
    owner = next(above for above in reversed(model.__mro__) if name in _declared(above))
    return Member(field.alias, kind, not field.is_required(), owner.__name__)


def _declared(model: type) -> Container[str]:
    fields: Container[str] = getattr(model, "model_fields", ())
    return fields


def _union(tag: str, models: tuple[type[BaseModel], ...]) -> Union_:
    branches: dict[str, Struct] = {}
    for model in models:
        kinds = get_args(model.model_fields[tag].annotation)
        branches.update(dict.fromkeys(map(str, kinds), _struct(model)))
    return Union_(common.wire_name(tag), branches, _base(tag, models))


def _base(tag: str, models: tuple[type[BaseModel], ...]) -> Struct | None:
    """Return the class above all of ``models`` that declares the tag, if there is one."""
    first = models[0]
    for model in reversed(first.__mro__[1:]):
        if issubclass(model, common.QapiModel) and tag in model.model_fields:
            return _struct(model) if all(issubclass(m, model) for m in models) else None
    return None


def _tagged(branch: Any) -> tuple[str, Type]:
    inner, *marks = get_args(branch)
    tag = next(mark for mark in marks if isinstance(mark, Tag))
    return tag.tag, describe(inner, tuple(marks))
