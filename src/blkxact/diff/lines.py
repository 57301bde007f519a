"""Where the lines of a run come from: a script, or chance (``generate.py``)."""

from __future__ import annotations

from typing import Protocol

from .script import Script
from .world import World


class Lines(Protocol):
    """Where the lines of one run come from."""

    @property
    def images(self) -> tuple[str, ...]:
        """Return the arguments of ``blkxact image``."""

    @property
    def looks_around(self) -> bool:
        """Return whether the next line depends on what is there."""

    def next_line(self, world: World) -> str | None:
        """Return the next line, now that ``world`` is there; None at the end."""


class Played:
    """The lines of a script, whatever is there."""

    looks_around = False

    def __init__(self, script: Script) -> None:
        self.images = script.images
        self._steps = iter(script.steps)

    def next_line(self, world: World) -> str | None:
        """Return the next line; None at the end."""
        del world
        return next(self._steps, None)
