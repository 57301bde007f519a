"""The first and the last moments of a process: what Python would do then and nobody needs.

A client's test-suite starts an emulator a thousand times. Of the life of ``image info`` a quarter
was spent in modules that were loaded for nothing, in looking through freshly loaded modules for
garbage, and in freeing one by one what the system frees at once.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LAZY_MODULES = ("ssl", "asyncio.sslproto", "inspect", "linecache", "locale", "textwrap")
"""Modules that no other module looks into while it is imported itself: asyncio and what it imports
do, and TLS and errors need them."""


class _Later(ModuleType):
    """Stands for a module until something of it is used, and has all of it from then on.

    (The lazy loader of the standard library loads a module when it is imported a second time.)
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks
            raise AttributeError(name)
        _load(self)
        return self.__dict__[name]


def _load(later: _Later) -> None:
    sys.modules.pop(later.__name__, None)
    later.__dict__.update(import_module(later.__name__).__dict__)


def load_the_rest() -> None:
    """Load what was left for its first use, for a process that cannot do so later."""
    for name in LAZY_MODULES:
        module = sys.modules.get(name)
        if isinstance(module, _Later):
            _load(module)


def _without_catalogs() -> ModuleType:
    """Return what stands for ``gettext``, which would look for translations of argparse's texts."""
    module = _Later("gettext")
    module.__dict__.update(
        gettext=lambda text: text,
        ngettext=lambda one, many, number: one if number == 1 else many,
    )
    return module


def load_lazily() -> None:
    """Let those of ``LAZY_MODULES`` that are not loaded yet be loaded at their first use."""
    for name in LAZY_MODULES:
        if name not in sys.modules:
            sys.modules[name] = _Later(name)
    sys.modules.setdefault("gettext", _without_catalogs())


def begin() -> None:
    """Load what comes now quickly: without what nobody uses, and without looking for garbage."""
    load_lazily()
    gc.disable()


def end() -> None:
    """Note that all is loaded: it stays, and garbage is looked for in what comes from now on."""
    gc.freeze()  # a full collection holds up all clients
    gc.enable()


def leave(status: int) -> None:
    """End the process now, if nothing is left for Python to do, or else return.

    By then all files are closed, what was printed is written (``cli/boundary.py``) and tasks are
    over. A thread may be waited for, though, and profilers and debuggers have their last words.
    """
    import threading  # noqa: PLC0415 - a question may have been answered without it

    others = (one for one in threading.enumerate() if one is not threading.main_thread())
    if sys.getprofile() or sys.gettrace() or not all(thread.daemon for thread in others):
        return
    os._exit(status)
