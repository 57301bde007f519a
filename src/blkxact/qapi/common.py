"""What all QAPI modules are made of: the base model, the builtin types, unions and alternates.

Invariants:

* A model is a QAPI struct; its fields stand in the schema's order, because that is the order in
  which errors are found. Attribute names are snake_case, wire names have dashes.
* The wire is strict: nothing is coerced, and a member that the schema does not have is an error.
* ``Opt[T]`` is a member that may be left out and is then ``None``; a ``null`` on the wire is not
  the same and is refused. A member with another default has QEMU's documented default.
* The branch of a union is chosen by one of its members (``Discriminator``), the branch of an
  alternate by the type of its JSON value (``BY_KIND``).

QEMU's counterpart: the builtin types of ``docs/devel/qapi-code-gen.rst``, ``qapi/common.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
UINT64_MAX = 2**64 - 1


def wire_name(attribute: str) -> str:
    """Return the QAPI name of an attribute: ``node_name`` is ``node-name``."""
    return attribute.replace("_", "-")


class QapiModel(BaseModel):
    """A QAPI struct. In Python it is built with attribute names, on the wire with QAPI's."""

    model_config = ConfigDict(
        alias_generator=wire_name,
        populate_by_name=True,
        defer_build=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the members that were given, as QMP has them."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class NoArguments(QapiModel):
    """A command without arguments."""


_T = TypeVar("_T")

Array = Annotated[list[_T], FailFast()]
"""A list, looked at no further than its first bad item."""

if TYPE_CHECKING:
    Opt: TypeAlias = _T | None
else:

    class Opt:
        """``Opt[T]`` is a ``T`` on the wire and a ``T | None`` for who reads the attribute."""

        def __class_getitem__(cls, item: Any) -> Any:
            return item


@dataclass(frozen=True, slots=True)
class Integer:
    """Marks an integer of QAPI.

    ``wide`` is the type that the value must have before the range of ``name`` is looked at; it
    decides the wording of the error.
    """

    name: str
    wide: Literal["int64", "uint64"]


def _wrap(value: int) -> int:
    """Take a negative number for an unsigned one modulo 2**64, as QEMU's visitor does."""
    return value & UINT64_MAX


_UNSIGNED = (Field(ge=INT64_MIN, le=UINT64_MAX), AfterValidator(_wrap))

Int = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX), Integer("int64", "int64")]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), Integer("int32", "int64")]
UInt8 = Annotated[int, Field(ge=0, le=2**8 - 1), Integer("uint8", "uint64")]
UInt16 = Annotated[int, Field(ge=0, le=2**16 - 1), Integer("uint16", "uint64")]
UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1), Integer("uint32", "uint64")]
UInt64 = Annotated[int, *_UNSIGNED, Integer("uint64", "uint64")]
Size = Annotated[int, *_UNSIGNED, Integer("size", "uint64")]
"""Bytes. On a command line it may have a suffix."""


@dataclass(frozen=True, slots=True)
class Alternate:
    """Marks an alternate and carries its QAPI name, for its error message."""

    name: str


_KINDS: Final = {str: "string", dict: "object", type(None): "null"}


def json_kind(value: Any) -> str:
    """Return the kind of a JSON value, by which the branch of an alternate is chosen.

    A model stands for the object that it was made of, a member of an enumeration for its name.
    """
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    match value:
        case BaseModel():
            return "object"
        case str():
            return "string"
    return type(value).__name__


BY_KIND = Discriminator(json_kind)
STRING, OBJECT, NULL = Tag("string"), Tag("object"), Tag("null")
