"""The arguments of the markers: a mistake in them is one line that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import pytest

from .errors import KitError

T = TypeVar("T")


def marked(read: Callable[..., T], marker: pytest.Mark | None) -> T:
    """Return what ``read`` makes of a marker's arguments; raises ``KitError``."""
    if marker is None:
        return read()
    names = list(inspect.signature(read).parameters)
    unknown = [name for name in marker.kwargs if name not in names]
    if marker.args:
        raise KitError(f"{marker.args[0]!r} needs a name: it takes {', '.join(names)}")
    if unknown:
        raise KitError(f"it has no argument {unknown[0]!r}, but {', '.join(names)}")
    return read(**marker.kwargs)
