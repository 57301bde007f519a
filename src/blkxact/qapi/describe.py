"""What a model says about the wire, as a small tree.

It is read off the models, so the schema stands in one place. Checks (``check.py``), error texts,
option strings and introspection are made from it. What of it nobody asks for is not made.

QEMU's counterpart: ``scripts/qapi/schema.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from blkxact.enums import QapiEnum

from . import common
from .common import Discriminator, Field, Integer, QapiModel, Tag, fields_of, literals


class Builtin(NamedTuple):
    """A scalar: string, boolean, number, null, any, or one of the integers."""

    name: str
    integer: Integer | None = None


class Enum(NamedTuple):
    """A string out of a list."""

    values: tuple[str, ...]


class Array(NamedTuple):
    """A list of one type."""

    item: Type


class Member(NamedTuple):
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
        self,
        name: str,
        load: Callable[[], dict[str, Member]],
        model: type[QapiModel] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        """What a value becomes; ``None`` for a type that is described but never checked."""
        self._load = load

    @cached_property
    def members(self) -> dict[str, Member]:
        """The members by wire name, in the schema's order."""
        return self._load()


class Union_(NamedTuple):  # noqa: N801 - the name is taken
    """An object whose member ``tag`` says which struct it is."""

    tag: str
    branches: dict[str, Struct]
    base: Struct | None
    """The struct whose members, ``tag`` among them, all branches have; ``None`` if only that."""


class Alternate(NamedTuple):
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
        if isinstance(mark, Integer):
            return Builtin("integer", mark)
        if isinstance(mark, common.Alternate):
            return Alternate(mark.name, dict(map(_tagged, get_args(annotation))))
        if isinstance(mark, Discriminator):
            return _union(mark.attribute, get_args(annotation) or (annotation,))
    if isinstance(annotation, type) and issubclass(annotation, QapiModel):
        return _struct(annotation)
    return _plain(annotation)


def members_of(model: type[QapiModel]) -> dict[str, Member]:
    """Return the members of a model by wire name, in the schema's order."""
    return _struct(model).members


def _plain(annotation: Any) -> Type:
    if get_origin(annotation) is Literal:
        return Enum(tuple(map(str, get_args(annotation))))
    if isinstance(annotation, type) and issubclass(annotation, QapiEnum):
        return Enum(tuple(annotation))
    if get_origin(annotation) is list:
        return Array(describe(get_args(annotation)[0]))
    return _SCALARS[annotation]


@cache
def _struct(model: type[QapiModel]) -> Struct:
    return Struct(model.__name__, partial(_members, model), model)


def _members(model: type[QapiModel]) -> dict[str, Member]:
    return {field.name: _member(field) for field in fields_of(model).values()}


def _member(field: Field) -> Member:
    return Member(field.name, describe(field.annotation), not field.is_required, field.owner)


@cache
def _union(attribute: str, models: tuple[type[QapiModel], ...]) -> Union_:
    branches: dict[str, Struct] = {}
    for model in models:
        branches.update(dict.fromkeys(literals(model, attribute), _struct(model)))
    return Union_(models[0].wire_name(attribute), branches, _base(attribute, models))


def _base(attribute: str, models: tuple[type[QapiModel], ...]) -> Struct | None:
    """Return the class above all of ``models`` that declares the tag, if there is one."""
    for model in reversed(models[0].__mro__[1:]):
        if issubclass(model, QapiModel) and attribute in model.__annotations__:
            return _struct(model) if all(issubclass(m, model) for m in models) else None
    return None


def _tagged(branch: Any) -> tuple[str, Type]:
    inner, *marks = get_args(branch)
    tag = next(mark for mark in marks if isinstance(mark, Tag))
    return tag.kind, describe(inner, tuple(marks))
