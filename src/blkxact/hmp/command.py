"""What a command of the human monitor consists of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .command_line import Argument, Word
from .host import Context

DEVICE: Final = Word("device", "block device name")


@dataclass(frozen=True, slots=True)
class HmpCommand:
    """One command: what it takes, and what does it."""

    run: Callable[[Context, Mapping[str, Any]], Awaitable[None]]
    arguments: tuple[Argument, ...]
    params: str
    summary: str
