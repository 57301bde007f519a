"""Where two values differ.

The items of a list that have names, such as nodes, are compared by them: one that only one side has
is one difference, and the others are still compared with their like.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from blkxact.qmp.json_text import encode_text

from .known import Difference

NAME: Final = "node-name"
DRIVER: Final = "drv"
NOTHING: Final = "(nothing)"
"""Stands where one side has a value and the other has not."""


def compare(step: int, where: str, ours: Any, theirs: Any) -> list[Difference]:
    """Return the innermost places in which two values differ."""
    return [
        Difference(step, f"{where} {path}", one, other)
        for path, one, other in _differences("", ours, theirs)
    ]


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost places in which two values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(
                f"{path}/{key}", ours.get(key, NOTHING), theirs.get(key, NOTHING)
            )
    elif _are_named(ours) and _are_named(theirs):
        one, other = _by_name(ours), _by_name(theirs)
        yield from _differences(path, one, other)
        if one.keys() == other.keys() and list(one) != list(other):
            yield f"{path}/order", list(one), list(other)
    elif isinstance(ours, list) and isinstance(theirs, list):
        length = max(len(ours), len(theirs))
        for index, (one, other) in enumerate(
            zip(_filled(ours, length), _filled(theirs, length), strict=True)
        ):
            yield from _differences(f"{path}/{index}", one, other)
    elif encode_text(ours) != encode_text(theirs):
        yield path, ours, theirs


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(it, dict) and NAME in it for it in value)


def _by_name(items: list[Any]) -> dict[str, Any]:
    """Return the items by the names of nodes and their drivers, others by number; in order."""
    named: dict[str, Any] = {}
    for number, item in enumerate(items):
        label = _label(item) if isinstance(item, dict) and NAME in item else str(number)
        while label in named:
            label += "+"
        named[label] = item
    return named


def _label(item: dict[str, Any]) -> str:
    """Return ``NAME(DRIVER)``, and for a file ``NAME(file:PATH)``."""
    name, driver = item[NAME], item.get(DRIVER)
    if driver is None:
        return str(name)
    return f"{name}({driver}:{item.get('file')})" if driver == "file" else f"{name}({driver})"


def _filled(values: list[Any], length: int) -> list[Any]:
    return values + [NOTHING] * (length - len(values))
