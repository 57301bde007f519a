"""What the table of commands is made of."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol

_CO_COROUTINE: Final = 0x80
"""Flag of the code of coroutine functions (``inspect`` has it, and takes 4 ms to load)."""


class Client(Protocol):
    """Who sent a command, for the few that ask (``Command.from_client``)."""

    def take_descriptor(self) -> int | None:
        """Return a file descriptor that came with the request; it is the caller's now."""


class Command:
    """One QMP command; see the package for what a handler is.

    ``model`` is a QapiModel, a union of them, or None for a command without arguments. Given as
    ``MODULE:NAME``, a name in a module of ``qapi``, it is loaded at its first use.
    """

    __slots__ = (
        *("_model", "allow_oob", "from_client", "gen", "handler", "locked", "name", "system"),
        "waits",
    )

    def __init__(
        self,
        name: str,
        handler: Callable[..., Any],
        model: Any = None,
        *,
        gen: bool = True,
        allow_oob: bool = False,
        system: bool = False,
        from_client: bool = False,
        locked: bool = True,
    ) -> None:
        self.name = name
        self.handler = handler
        self.waits = _is_coroutine_function(handler)
        """The handler is a coroutine function."""
        self._model = model
        self.gen = gen
        """The arguments are checked with ``model``; if not, it only describes them (``gen``)."""
        self.allow_oob = allow_oob
        """It may overtake others (``exec-oob``); its handler neither waits nor needs the lock."""
        self.system = system
        """Only qemu-system-x86_64 has it, not qemu-storage-daemon."""
        self.from_client = from_client
        """The handler has a third argument: the client, or None where it was sent by no one."""
        self.locked = locked
        """It waits for its turn among the commands of all monitors. One that looks at nothing which
        a transaction changes need not wait."""

    @property
    def model(self) -> Any:
        """What describes the arguments."""
        if isinstance(self._model, str):
            module, _, name = self._model.partition(":")
            self._model = getattr(import_module(f"blkxact.qapi.{module}"), name)
        return self._model


def _is_coroutine_function(handler: Callable[..., Any]) -> bool:
    return bool(handler.__code__.co_flags & _CO_COROUTINE)
