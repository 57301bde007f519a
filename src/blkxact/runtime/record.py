"""Classes whose annotations say what their constructor takes, as those of ``dataclasses`` do.

``dataclasses`` writes and compiles the methods of each class: 0.3 to 1.5 ms of every start. This
costs a start nothing; to make an object takes 2 µs more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform

T = TypeVar("T")


class _Made:
    """A default that is made for each object."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


def made(*, factory: Callable[[], T]) -> T:
    """Say that the default of an attribute is what ``factory`` returns."""
    return cast("T", _Made(factory))


@dataclass_transform(field_specifiers=(made,))
class Record:
    """The base of such a class. Its objects are compared by identity."""

    _names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)

    def __init__(self, *values: Any, **named: Any) -> None:
        kind = type(self)
        given = dict(zip(self._names, values, strict=False)) | named
        for name in self._names:
            if name in given:
                value = given[name]
            else:
                value = getattr(kind, name)  # raises for one that must be given
                if isinstance(value, _Made):
                    value = value.factory()
            setattr(self, name, value)
        if len(given) < len(values) + len(named) or given.keys() - vars(self).keys():
            raise TypeError(f"{kind.__name__} takes {', '.join(self._names)}")

    def changed(self, **changes: Any) -> Self:
        """Return another one with some attributes changed."""
        return type(self)(**(vars(self) | changes))

    def __repr__(self) -> str:
        attributes = (f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({', '.join(attributes)})"


class Value(Record):  # noqa: PLW1641 - its attributes change
    """A record whose objects are equal if all their attributes are."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)
