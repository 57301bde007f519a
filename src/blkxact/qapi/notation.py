"""Types of QAPI in a few words, for what is described but never validated.

One type is a paragraph: its name, then a word for each member, ``name:type``. ``name?`` may be left
out; ``[type]`` is a list. After ``by TAG`` come the branches that this member chooses,
``value:type``; a value without a branch adds nothing. ``enum NAME value ...`` is an enumeration.
Paragraphs that begin with ``#`` are headings.

QEMU's counterpart: ``scripts/qapi/parser.py``.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from blkxact import enums

from .blockdev import BlockdevDriver
from .common import NoArguments
from .describe import Array, Builtin, Enum, Member, Struct, Type, Union_, describe
from .returns import RETURNS, TYPES
from .yank import YankInstance

_NAMED: Final = {
    "str": Builtin("string"),
    "bool": Builtin("boolean"),
    "int": Builtin("integer"),
    "number": Builtin("number"),
    "any": Builtin("any"),
    "BlockdevDriver": describe(BlockdevDriver),
    "YankInstance": describe(YankInstance),
}


def returned(command: str) -> Type:
    """Return the type of a command's result."""
    name = RETURNS.get(command)
    return describe(NoArguments) if name is None else _type(name)


@cache
def _type(name: str) -> Type:
    if name.startswith("["):
        return Array(_type(name[1:-1]))
    if name in _NAMED:
        return _NAMED[name]
    enum = getattr(enums, name, None)
    if enum is not None:
        return describe(enum)
    kind, words = _paragraphs()[name]
    return Enum(tuple(words)) if kind == "enum" else _object(name, words)


@cache
def _paragraphs() -> dict[str, tuple[str, list[str]]]:
    """Return whether each type is an ``enum`` or an ``object``, and its words."""
    found = {}
    for paragraph in TYPES.replace("\nenum ", "\n\nenum ").split("\n\n"):
        first, *words = paragraph.split() or ["#"]
        if first == "enum":
            found[words[0]] = "enum", words[1:]
        elif first != "#":
            found[first] = "object", words
    return found


def _object(name: str, words: list[str]) -> Type:
    end = words.index("by") if "by" in words else len(words)
    struct = Struct(name, lambda: dict(_member(name, word) for word in words[:end]))
    if end == len(words):
        return struct
    tag, *branches = words[end + 1 :]
    cases = struct.members[tag].type
    assert isinstance(cases, Enum)
    given = dict(word.split(":") for word in branches)
    return Union_(tag, {case: _struct(given.get(case)) for case in cases.values}, struct)


def _struct(name: str | None) -> Struct:
    found = describe(NoArguments) if name is None else _type(name)
    assert isinstance(found, Struct)
    return found


def _member(owner: str, word: str) -> tuple[str, Member]:
    name, kind = word.split(":")
    member = Member(name.removesuffix("?"), _type(kind), name.endswith("?"), owner)
    return member.name, member
