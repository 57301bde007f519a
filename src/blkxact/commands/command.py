"""What the table of commands is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from blkxact.qapi.common import NoArguments


class Client(Protocol):
    """Who sent a command, for the few that ask (``Command.from_client``)."""

    def take_descriptor(self) -> int | None:
        """Return a file descriptor that came with the request; it is the caller's now."""


@dataclass(frozen=True, slots=True)
class Command:
    """One QMP command; see the package for what a handler is."""

    name: str
    handler: Callable[..., Any]
    model: Any = NoArguments
    """A QapiModel, or a union of them."""
    gen: bool = True
    """The arguments are checked with ``model``; if not, it only describes them (QAPI's ``gen``)."""
    allow_oob: bool = False
    """It may overtake others (``exec-oob``); its handler neither waits nor needs the lock."""
    system: bool = False
    """Only qemu-system-x86_64 has it, not qemu-storage-daemon."""
    from_client: bool = False
    """The handler has a third argument: the client, or None where it was sent by no one."""
    locked: bool = True
    """It waits for its turn among the commands of all monitors. One that looks at nothing which a
    transaction changes need not wait."""
