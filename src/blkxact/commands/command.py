"""What the table of commands is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blkxact.qapi.common import NoArguments


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
    locked: bool = True
    """It waits for its turn among the commands of all monitors. One that looks at nothing which a
    transaction changes need not wait."""
