"""What the clients of a server make the process hold, and its return to the system afterwards.

The C library keeps freed memory for later, and what lies at the top of a thread's arena for good;
a burst of large requests would otherwise enlarge the process.
"""

from __future__ import annotations

import asyncio
from typing import Final

MUCH_MEMORY: Final = 8 << 20
"""Bytes that are worth giving back to the system when they are free."""


class HeldMemory:
    """A sum of bytes. Once it has been large, ``give_back`` returns to the system what is free."""

    __slots__ = ("_was_much", "held")

    def __init__(self) -> None:
        self.held = 0
        self._was_much = False

    def add(self, size: int) -> None:
        """Hold so many bytes more, or less."""
        self.held += size
        if self.held > MUCH_MEMORY and not self._was_much:
            self._was_much = True
            from .libc import map_large_blocks  # noqa: PLC0415 - seldom needed

            map_large_blocks()

    def give_back(self) -> None:
        """Give memory back soon, if much was held since the last time and little is now."""
        if self._was_much and self.held < MUCH_MEMORY // 2:
            self._was_much = False
            from .libc import give_memory_back  # noqa: PLC0415 - seldom needed

            asyncio.get_running_loop().call_soon(give_memory_back)
