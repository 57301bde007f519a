"""The kit for pytest: an emulator in the test's own process, for the tests of a backup tool.

``pip install blkxact`` brings the fixture ``blkxact``, which is an ``Emulator``. ``docs/kit.md``
describes it with examples. A test, or a ``conftest.py`` that wants type hints, imports from here:

    from blkxact.kit import Emulator, KitError, QmpError

Invariant: importing this package loads nothing of blkxact before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from blkxact.errors import QmpError

    from .emulator import Emulator
    from .errors import KitError

__all__ = ["Emulator", "KitError", "QmpError"]

_WHERE: Final = {
    "Emulator": "blkxact.kit.emulator",
    "KitError": "blkxact.kit.errors",
    "QmpError": "blkxact.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
