"""Options in the shape in which QEMU keeps them: a flat hash table with dotted names.

The order of its members shows wherever QEMU prints options as JSON (``json:`` names), and decides
which of several mistakes is reported.

Facts (``qobject/qdict.c``, ``qobject/block-qdict.c``): 512 buckets and the hash of TDB; a container
is replaced by its members, unless it is empty. Within a bucket each copy of a table turns the order
around; after those that the options of ``blockdev-add`` go through, it is the order of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")

_BUCKETS: Final = 512
_UINT: Final = 0xFFFFFFFF


def _bucket(name: str) -> int:
    letters = name.encode()
    value = 0x238F13AF * len(letters)
    value += sum(letter << (index * 5 % 24) for index, letter in enumerate(letters))
    return (1103515243 * value + 12345 & _UINT) % _BUCKETS


def in_qdict_order(members: Mapping[str, T]) -> dict[str, T]:
    """Return the members in the order in which QEMU visits them."""
    return dict(sorted(members.items(), key=lambda item: _bucket(item[0])))


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
