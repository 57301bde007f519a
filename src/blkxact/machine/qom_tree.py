"""The tree of objects that ``qom-get``, ``qom-set`` and ``qom-list`` walk through.

There is as much of it as the block layer has: ``/objects``, and below ``/machine`` the devices,
named (``peripheral``) and nameless (``peripheral-anon``).

QEMU's counterpart: ``object_resolve_path()`` in ``qom/object.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from blkxact.errors import QmpError, device_not_found


class QomObject(Protocol):
    """One object of the tree. Properties have their wire names."""

    @property
    def qom_type(self) -> str:
        """The name of its type."""

    @property
    def children(self) -> Mapping[str, QomObject]:
        """The objects below it."""

    def properties(self) -> Mapping[str, str]:
        """Return the types of the properties, ``type`` and children left out."""

    def get(self, name: str) -> Any:
        """Return the value of a property. Raises ``QmpError``."""

    async def set(self, name: str, value: Any) -> None:
        """Change a property. Raises ``QmpError``."""


class Container:
    """An object that has nothing but objects below it."""

    def __init__(self, children: Mapping[str, QomObject], qom_type: str = "container") -> None:
        self.children = children
        self.qom_type = qom_type

    def properties(self) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def get(self, name: str) -> Any:
        """Refuse: there is no property but ``type`` and the children."""
        raise property_not_found(self, name)

    async def set(self, name: str, value: Any) -> None:
        """Refuse."""
        del value
        raise property_not_found(self, name)


def property_not_found(found: QomObject, name: str) -> QmpError:
    """Return the error for a property that an object does not have."""
    return QmpError(f"Property '{found.qom_type}.{name}' not found")


def resolve(root: QomObject, path: str) -> tuple[str, QomObject]:
    """Return the object of a path, and its whole path.

    A path that does not begin with a slash is the end of one. Raises ``QmpError`` where no object
    has that path, or several.
    """
    found = _all_of(root, path)
    if len(found) != 1:
        raise device_not_found(path)
    return found[0]


def resolve_for_list(root: QomObject, path: str) -> tuple[str, QomObject]:
    """Return what ``resolve`` does, with qom-list's error where several objects have the path."""
    if len(_all_of(root, path)) > 1:
        raise QmpError(f"Path '{path}' is ambiguous")
    return resolve(root, path)


def list_properties(found: QomObject) -> dict[str, str]:
    """Return the types of all properties, children included."""
    children = {name: f"child<{child.qom_type}>" for name, child in found.children.items()}
    return {"type": "string", **found.properties(), **children}


def get_property(found: QomObject, path: str, name: str) -> Any:
    """Return the value of a property of the object with that whole path. Raises ``QmpError``."""
    if name == "type":
        return found.qom_type
    if name in found.children:
        return f"{path.rstrip('/')}/{name}"
    return found.get(name)


async def set_property(found: QomObject, name: str, value: Any) -> None:
    """Change a property. Raises ``QmpError``."""
    if name == "type" or name in found.children:
        raise QmpError(f"Property '{found.qom_type}.{name}' is not writable")
    await found.set(name, value)


def _all_of(root: QomObject, path: str) -> list[tuple[str, QomObject]]:
    starts = [("", root)] if path.startswith("/") else _walk("", root)
    ends = (descend(start, path) for start in starts)
    return [end for end in ends if end is not None]


def _walk(path: str, at: QomObject) -> Iterator[tuple[str, QomObject]]:
    yield path, at
    for name, child in at.children.items():
        yield from _walk(f"{path}/{name}", child)


def descend(start: tuple[str, QomObject], path: str) -> tuple[str, QomObject] | None:
    """Return the object at ``path`` below ``start``, and its own whole path."""
    whole, at = start
    for part in filter(None, path.split("/")):
        below = at.children.get(part)
        if below is None:
            return None
        whole, at = f"{whole}/{part}", below
    return whole or "/", at
