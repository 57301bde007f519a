"""``key=value`` words to the arguments of a QMP command.

A value that is JSON is taken as JSON, anything else as a string: ``speed=0`` is a number,
``device=disk0`` a string, ``'device="0"'`` a string again. Dots in a key lead into nested members,
and numbers there make a list: ``bitmaps.0.node=a``. A word that begins with a brace is a JSON
object whose members are all taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .errors import CliError

JsonObject = dict[str, Any]


def parse_arguments(words: Iterable[str]) -> JsonObject:
    """Return the arguments that ``words`` name; raises ``CliError``."""
    arguments: JsonObject = {}
    for word in words:
        if word.startswith("{"):
            arguments.update(_json_object(word))
            continue
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise CliError(f"'{word}': KEY=VALUE is expected")
        _assign(arguments, key, _value(text))
    return {key: _with_lists(value, key) for key, value in arguments.items()}


def _json_object(word: str) -> JsonObject:
    try:
        members = json.loads(word)
    except ValueError as error:
        raise CliError(f"'{word}': {error}") from error
    assert isinstance(members, dict)  # it begins with a brace
    return members


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assign(arguments: JsonObject, key: str, value: Any) -> None:
    *path, last = key.split(".")
    place = arguments
    for name in path:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise CliError(f"'{key}': '{name}' is a value already")
    if last in place:
        raise CliError(f"'{key}' is given twice")
    place[last] = value


def _with_lists(value: Any, key: str) -> Any:
    """Turn objects whose names are all numbers into lists."""
    if not isinstance(value, dict):
        return value
    members = {name: _with_lists(member, f"{key}.{name}") for name, member in value.items()}
    if not members or not all(name.isdecimal() for name in members):
        return members
    if {int(name) for name in members} != set(range(len(members))):
        raise CliError(f"'{key}': list indices must be 0 to {len(members) - 1}")
    return [members[name] for name in sorted(members, key=int)]
