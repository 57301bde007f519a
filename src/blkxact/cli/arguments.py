"""``key=value`` words to the arguments of a QMP command.

A value that is JSON is taken as JSON, anything else as a string: ``speed=0`` is a number,
``device=disk0`` a string, ``'device="0"'`` a string again. Dots in a key lead into nested members,
and numbers there make a list: ``bitmaps.0.node=a``. A word that begins with a brace is a JSON
object whose members are all taken.

Only the server knows which members are strings. When it wants one where ``name=2026`` gave a
number, ``Arguments.take_as_text`` makes it the string that was typed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from blkxact.qapi.dotted import Path, descend, with_lists

from .errors import CliError

JsonObject = dict[str, Any]

MAX_NESTING: Final = 256
"""Objects and lists inside each other. No command of QEMU's comes near; Python's own limit is
found only by running into it."""


class Arguments:
    """The arguments that ``words`` name; raises ``CliError`` when they make no sense."""

    def __init__(self, words: Iterable[str]) -> None:
        self._members: list[_Member] = []
        for word in words:
            if word.startswith("{"):
                object_ = _json_object(word)
                self._members += [_Member([name], value) for name, value in object_.items()]
                continue
            key, equals, text = word.partition("=")
            if not equals or not key:
                raise CliError(f"'{word}': KEY=VALUE is expected")
            self._members.append(_Member(key.split("."), _value(key, text), text))
        self.value()

    def value(self) -> JsonObject:
        """Return the arguments as the object to send."""
        arguments: JsonObject = {}
        for member in self._members:
            _assign(arguments, member)
        _check_nesting(arguments, "the arguments")
        nested: JsonObject = with_lists(arguments, _is_list)
        return nested

    def take_as_text(self, path: str) -> bool:
        """Take the word for the member ``path`` as the text that was typed.

        ``path`` is as in QEMU's errors (``file.filename``, ``bitmaps[0].node``). Returns False if
        there is no such word, or if it is text already.
        """
        names = path.replace("[", ".").replace("]", "").split(".")
        for member in self._members:
            if member.path == names and member.text not in (None, member.value):
                member.value = member.text
                return True
        return False


@dataclass
class _Member:
    path: list[str]
    value: Any
    text: str | None = None
    """What was typed after the equals sign, if it was a word of its own."""


def _json_object(word: str) -> JsonObject:
    try:
        members = _loads(word)
    except RecursionError:
        _refuse_nesting(word)
    except ValueError as error:
        raise CliError(f"'{word}': {error}") from error
    assert isinstance(members, dict)  # it begins with a brace
    return members


def _value(key: str, text: str) -> Any:
    try:
        return _loads(text)
    except RecursionError:
        _refuse_nesting(key)
    except ValueError:
        return text


def _loads(text: str) -> Any:
    """Return the value of a JSON text, which has no ``NaN`` and no infinity."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number in JSON, or too large")
    return number


def _refuse_nesting(place: str) -> NoReturn:
    shown = place if len(place) <= 40 else f"{place[:40]}..."
    raise CliError(f"'{shown}': more than {MAX_NESTING} objects and lists inside each other")


def _check_nesting(value: Any, place: str) -> None:
    """Look at one level after the other, as recursion is what must not go too deep."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [member for item in level for member in _containers(item)]
        if not level:
            return
    _refuse_nesting(place)


def _containers(value: Any) -> Iterable[Any]:
    members = value.values() if isinstance(value, dict) else value
    return (member for member in members if isinstance(member, (dict, list)))


def _assign(arguments: JsonObject, member: _Member) -> None:
    *path, last = member.path
    key = ".".join(member.path)
    place = descend(
        arguments,
        path,
        lambda depth: CliError(f"'{key}': '{path[depth - 1]}' is a value already"),
    )
    if last in place:
        raise CliError(f"'{key}' is given twice")
    # A copy: words with dots may add members to an object that another word gave.
    place[last] = dict(member.value) if isinstance(member.value, dict) else member.value


def _is_list(path: Path, names: Collection[str]) -> bool:
    """Return whether all names are numbers; raises ``CliError`` if some are left out."""
    if not path or not names or not all(name.isdecimal() for name in names):
        return False
    if {int(name) for name in names} != set(range(len(names))):
        key = ".".join(path)
        raise CliError(f"'{key}': list indices must be 0 to {len(names) - 1}")
    return True
