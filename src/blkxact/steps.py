"""Work in steps: a generator that yields where others may have their turn.

Law: a step takes a few milliseconds at the most. Whoever cannot wait takes all steps at once;
whoever can gives the loop's other tasks a turn between them, and sees to it that what is worked on
stays as it is meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that returns a ``T`` at its end."""


def at_once(steps: Steps[T]) -> T:
    """Take all steps; return what the work returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


async def in_turns(steps: Steps[T]) -> T:
    """Take the steps with turns of other tasks between them; return what the work returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        await asyncio.sleep(0)
