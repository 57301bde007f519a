"""What all QAPI modules are made of: the base of models, the builtin types, unions and alternates.

Invariants:

* A model is a QAPI struct; its members stand in the schema's order, because that is the order in
  which errors are found. Attribute names are snake_case, wire names have dashes.
* The wire is strict: nothing is coerced, and a member that the schema does not have is an error.
* ``Opt[T]`` is a member that may be left out and is then ``None``; a ``null`` on the wire is not
  the same and is refused. A member with another default has QEMU's documented default.
* The branch of a union is chosen by one of its members (``Discriminator``), the branch of an
  alternate by the type of its JSON value (``Alternate``).
* Importing a model costs no more than importing a class: annotations are read when a value is first
  checked against the model. A start needs few of the models, and few clients need more.

QEMU's counterpart: the builtin types of ``docs/devel/qapi-code-gen.rst``, ``qapi/common.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    NoReturn,
    Self,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    get_args,
)

from .limits import INT64_MAX, INT64_MIN, UINT64_MAX

REQUIRED: Final = object()
"""The default of a member that has none."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class ModelType(type):
    """The type of all models, which shows mypy how they are built and that they can be keys."""


class QapiModel(metaclass=ModelType):  # noqa: PLW1641 - members may be lists
    """A QAPI struct. In Python it is built with attribute names, on the wire with QAPI's.

    Its members are the annotated attributes of the class and of those above it; one that has a
    value there may be left out. Values from the wire are checked by ``validation.py``, those from
    Python by mypy.
    """

    __slots__ = ("__dict__", "given")

    is_open: ClassVar[bool] = False
    """Members that are not in the schema are taken, and ignored."""
    if TYPE_CHECKING:  # an annotated slot would be a member for mypy

        @property
        def given(self) -> frozenset[str]:
            """The attributes of the members that were given."""

    def __init__(self, **members: Any) -> None:
        fields = fields_of(type(self))
        wrong = members.keys() - fields.keys() or {
            name for name, field in fields.items() if field.is_required and name not in members
        }
        if wrong:
            raise TypeError(f"{type(self).__name__}: unexpected or missing: {sorted(wrong)}")
        self.__dict__.update(
            (name, members.get(name, field.default)) for name, field in fields.items()
        )
        object.__setattr__(self, "given", frozenset(members))

    @classmethod
    def of_checked(cls, values: dict[str, Any], given: frozenset[str]) -> Self:
        """Return a model with these attributes, which are all that there are."""
        made = cls.__new__(cls)
        made.__dict__.update(values)
        object.__setattr__(made, "given", given)
        return made

    @staticmethod
    def wire_name(attribute: str) -> str:
        """Return the QAPI name of an attribute: ``node_name`` is ``node-name``."""
        return attribute.replace("_", "-")

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield the members that were given, by wire name."""
        for field in fields_of(type(self)).values():
            if field.attribute in self.given:
                yield field.name, self.__dict__[field.attribute]

    def to_wire(self) -> dict[str, Any]:
        """Return the members that were given, as QMP has them."""
        return {name: _to_wire(value) for name, value in self.items()}

    def with_defaults(self) -> dict[str, Any]:
        """Return all members, given or not, as QMP has them; ``None``: not given, no default."""
        fields = fields_of(type(self)).values()
        return {field.name: _to_wire(self.__dict__[field.attribute]) for field in fields}

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.items())})"


def _to_wire(value: Any) -> Any:
    match value:
        case str():
            return str(value)  # a member of an enumeration becomes its name
        case QapiModel():
            return value.to_wire()
        case list():
            return [_to_wire(item) for item in value]
    return value


class Field(NamedTuple):
    """One member of a model."""

    attribute: str
    name: str
    """On the wire."""
    annotation: Any
    default: Any
    owner: str
    """The model that declares it first, which may be above the one that has it."""

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is REQUIRED


@cache
def fields_of(model: type[QapiModel]) -> dict[str, Field]:
    """Return the members of a model by attribute, in the schema's order."""
    owners: dict[str, str] = {}
    for owner in _models_above(model):
        for attribute in owner.__annotations__:
            owners.setdefault(attribute, owner.__name__)
    return {
        attribute: Field(
            attribute,
            model.wire_name(attribute),
            annotation_of(model, attribute),
            getattr(model, attribute, REQUIRED),
            owner,
        )
        for attribute, owner in owners.items()
    }


def annotation_of(model: type[QapiModel], attribute: str) -> Any:
    """Return the type of a member as Python has it, with its marks (``Annotated``)."""
    owner = [one for one in _models_above(model) if attribute in one.__annotations__][-1]
    annotation = owner.__annotations__[attribute]
    if not isinstance(annotation, str):
        return annotation
    names = vars(sys.modules[owner.__module__])
    return eval(annotation, names)  # noqa: S307 - a line of that module, as typing.get_type_hints


def literals(model: type[QapiModel], attribute: str) -> tuple[str, ...]:
    """Return the values of a member that says which branch of a union a model is."""
    return get_args(annotation_of(model, attribute))


def _models_above(model: type[QapiModel]) -> list[type[QapiModel]]:
    """Return the model and what it inherits members from, the highest first."""
    return [
        one
        for one in reversed(model.__mro__)
        if issubclass(one, QapiModel) and one is not QapiModel
    ]


class NoArguments(QapiModel):
    """A command without arguments."""


_T = TypeVar("_T")

Array = list
"""A list, looked at no further than its first bad item."""

if TYPE_CHECKING:
    Opt: TypeAlias = _T | None
else:

    class Opt:
        """``Opt[T]`` is a ``T`` on the wire and a ``T | None`` for who reads the attribute."""

        def __class_getitem__(cls, item: Any) -> Any:
            return item


class Integer(NamedTuple):
    """Marks an integer of QAPI, from ``low`` to ``high``.

    ``wide`` is the type that the value must have before the range of ``name`` is looked at; it
    decides the wording of the error.
    """

    name: str
    wide: Literal["int64", "uint64"]
    low: int
    high: int


Int = Annotated[int, Integer("int64", "int64", INT64_MIN, INT64_MAX)]
Int32 = Annotated[int, Integer("int32", "int64", -(2**31), 2**31 - 1)]
UInt8 = Annotated[int, Integer("uint8", "uint64", 0, 2**8 - 1)]
UInt16 = Annotated[int, Integer("uint16", "uint64", 0, 2**16 - 1)]
UInt32 = Annotated[int, Integer("uint32", "uint64", 0, 2**32 - 1)]
UInt64 = Annotated[int, Integer("uint64", "uint64", INT64_MIN, UINT64_MAX)]
"""A negative number is one modulo 2**64, as QEMU's visitor takes it."""
Size = Annotated[int, Integer("size", "uint64", INT64_MIN, UINT64_MAX)]
"""Bytes, negative ones as above. On a command line it may have a suffix."""


class Discriminator(NamedTuple):
    """Marks a union and names the attribute that chooses the branch."""

    attribute: str


class Alternate(NamedTuple):
    """Marks an alternate and carries its QAPI name, for its error message."""

    name: str


class Tag(NamedTuple):
    """Marks a branch of an alternate with the kind of JSON value (``json_kind``) that it is for."""

    kind: str


_KINDS: Final = {str: "string", dict: "object", type(None): "null"}


def json_kind(value: Any) -> str:
    """Return the kind of a JSON value, by which the branch of an alternate is chosen.

    A member of an enumeration stands for its name.
    """
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    match value:
        case dict():
            return "object"
        case str():
            return "string"
    return type(value).__name__


STRING, OBJECT, NULL, ARRAY = Tag("string"), Tag("object"), Tag("null"), Tag("list")
