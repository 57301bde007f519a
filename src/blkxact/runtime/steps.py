"""Work in steps: a generator that yields where others may have their turn.

Invariant: a step takes at most a few milliseconds. A caller that cannot wait takes all at once;
whoever can gives the loop's other tasks a turn between them, and sees to it that what is worked on
stays as it is meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
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


async def yield_turn() -> None:
    """Give the loop's other tasks a turn."""
    await asyncio.sleep(0)


async def in_turns(steps: Steps[T]) -> T:
    """Take the steps with turns of other tasks between them; return what the work returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        await yield_turn()


class Turns:
    """Lets work that was put off go on: one piece in each turn of the loop, whoever put it off.

    So however many clients have long work, others wait for at most one piece.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def defer(self, piece: Callable[[], None]) -> None:
        """Call ``piece`` when its turn comes."""
        self._waiting.append(piece)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        piece = self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        piece()
