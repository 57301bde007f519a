"""The hash table in which QEMU keeps the members of objects, and options with flat names.

The order of its members shows wherever QEMU prints JSON (messages of a monitor, ``json:`` names),
and decides which of several mistakes is reported.

Facts (``qobject/qdict.c``, ``qobject/block-qdict.c``): 512 buckets and the hash of TDB; a container
is replaced by its members, unless it is empty. Within a bucket each copy of a table turns the order
around; after those that the options of ``blockdev-add`` go through, it is the order of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

T = TypeVar("T")
Members = tuple[str, ...]

CACHED_LENGTH: Final = 1024
"""Characters of the names of an object whose order is remembered: clients' objects may be large."""

_BUCKETS: Final = 512
_UINT: Final = 0xFFFFFFFF
_CONTAINERS: Final = (dict, list, tuple)


def _bucket(name: str) -> int:
    letters = name.encode("utf-8", "surrogatepass")
    value = 0x238F13AF * len(letters)
    value += sum(letter << (index * 5 % 24) for index, letter in enumerate(letters))
    return (1103515243 * value + 12345 & _UINT) % _BUCKETS


def in_qdict_order(members: Mapping[str, T]) -> dict[str, T]:
    """Return the members in the order in which QEMU visits them."""
    return dict(sorted(members.items(), key=lambda item: _bucket(item[0])))


class Ordered(dict[str, Any]):
    """An object of a message whose members, and all below, are in QEMU's order already."""

    __slots__ = ()


def ordered(value: Any) -> Any:
    """Return a value of a message with all members in the order in which QEMU prints them.

    That is ``in_qdict_order`` but for members of one bucket, of which the last comes first.
    Raises ``RecursionError``.
    """
    if isinstance(value, dict):
        return value if isinstance(value, Ordered) else Ordered(_ordered_members(value))
    return _ordered_below(value) if isinstance(value, list | tuple) else value


def _ordered_members(value: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _ordered_below(member) if isinstance(member := value[name], _CONTAINERS) else member
        for name in (member_order(tuple(value)) if len(value) > 1 else value)
    }


def _ordered_below(value: dict[str, Any] | list[Any] | tuple[Any, ...]) -> Any:
    if isinstance(value, dict):
        return value if isinstance(value, Ordered) else _ordered_members(value)
    return [_ordered_below(one) if isinstance(one, _CONTAINERS) else one for one in value]


def member_order(names: Members) -> Members:
    """Return the names of an object's members in the order in which QEMU prints them."""
    if sum(map(len, names)) > CACHED_LENGTH:
        return _member_order(names)
    return _cached_member_order(names)


def _member_order(names: Members) -> Members:
    last_first = names[::-1]
    return tuple(sorted(last_first, key=_bucket))


_cached_member_order = lru_cache(maxsize=1024)(_member_order)


def flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without containers: ``inject-error.0.event``. Empty ones remain."""
    return dict(_leaves(options))


def _leaves(container: Mapping[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    items = container.items() if isinstance(container, Mapping) else enumerate(container)
    for name, value in items:
        if isinstance(value, Mapping | list) and value:
            yield from ((f"{name}.{below}", leaf) for below, leaf in _leaves(value))
        else:
            yield str(name), value
