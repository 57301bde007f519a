"""The names of nodes, and other ids that a user may choose.

QEMU's counterpart: ``util/id.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

MAX_NAME: Final = 31
"""Longest node name (the size of BlockDriverState's, less its end)."""


class NameGenerator:
    """Names for nodes that the user did not name."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._number = 0

    def next(self, is_taken: Callable[[str], bool]) -> str:
        """Return a name that is not taken."""
        while True:
            name = f"#block{self._number}{self._random.randrange(100):02d}"
            self._number += 1
            if not is_taken(name):
                return name


def is_well_formed(name: str) -> bool:
    """Return whether a user may choose this id: a letter, then letters, digits and ``-._``."""
    return (
        name.isascii()
        and name[:1].isalpha()
        and all(letter.isalnum() or letter in "-._" for letter in name)
    )
