"""Modules of the standard library that are loaded at their first use, not at their import.

Importing asyncio loads ssl with it, which takes a fifth of a start and is needed only for TLS.
(The lazy loader of the standard library loads a module when it is imported a second time.)
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = ("ssl", "asyncio.sslproto")
"""Modules that no other module looks into while it is imported itself."""


class _Later(ModuleType):
    """Stands for a module until something of it is used, and has all of it from then on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        self.__dict__.update(import_module(self.__name__).__dict__)
        return self.__dict__[name]


def load_lazily() -> None:
    """Let those of ``NAMES`` that are not loaded yet be loaded at their first use."""
    for name in NAMES:
        if name not in sys.modules:
            sys.modules[name] = _Later(name)
