"""Dotted keys (``file.filename``, ``bitmaps.0.node``): objects in objects, and lists by number.

What is refused, and in which words, is for the caller to say: QEMU's option strings, ``json:``
names and the words of ``blkxact qmp`` differ in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

Path = tuple[str, ...]

IsList = Callable[[Path, Collection[str]], bool]
"""Called with the path to an object and the names of its members. Says whether it is a list, or
raises what is to be reported."""


def descend(
    root: dict[str, Any], path: Sequence[str], conflict: Callable[[int], Exception]
) -> dict[str, Any]:
    """Return the object at ``path``, which is made if it is not there.

    Raises ``conflict(depth)`` if the first ``depth`` names lead to a value.
    """
    place = root
    for depth, name in enumerate(path, 1):
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise conflict(depth)
    return place


def with_lists(value: Any, is_list: IsList, path: Path = ()) -> Any:
    """Return ``value`` with objects that are lists made lists; the names in these are numbers."""
    if not isinstance(value, dict):
        return value
    members = {name: with_lists(each, is_list, (*path, name)) for name, each in value.items()}
    if is_list(path, members):
        return [members[number] for number in sorted(members, key=int)]
    return members
