"""Waiting without sleeping: until a condition holds, or until nothing more happens by itself.

A test that counts turns of the loop proves nothing, as the code may need one turn more tomorrow.
``until_idle`` returns when the loop would block: no callback is ready, no timer is due and no
descriptor that the loop watches has become readable or writable. What has not happened by then does
not happen without something from outside: a later timer, a thread, another process, or the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from selectors import BaseSelector
from typing import Any

from blkxact.runtime.clock import SystemClock

from .loop import LivelockError

TIMEOUT_S = 20.0
"""Seconds after which a condition is taken never to come."""
MAX_TURNS = 100_000
"""Turns of the loop after which it is taken never to become idle."""


async def until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Return as soon as ``condition()`` is true; it is asked in every turn of the loop.

    Raises ``AssertionError`` when it is still false after ``timeout_s`` seconds of the loop's time.
    """
    clock = SystemClock()
    end = clock.monotonic() + timeout_s
    while not condition():
        assert clock.monotonic() < end, f"still not true after {timeout_s} s: {condition}"
        await asyncio.sleep(0)


async def until_idle(max_turns: int = MAX_TURNS) -> None:
    """Return when nothing is ready on the running loop, and no timer is due.

    Only one task may wait so at a time. Raises ``LivelockError`` after ``max_turns`` turns.
    """
    for _ in range(max_turns):
        await asyncio.sleep(0)
        if is_idle(asyncio.get_running_loop()):
            return
    raise LivelockError(f"the loop is still busy after {max_turns} turns")


async def take_turns(count: int) -> None:
    """Let others run for ``count`` turns of the loop, where a seed decides who overtakes whom."""
    for _ in range(count):
        await asyncio.sleep(0)


def is_idle(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether ``loop`` would block if the callback that asks were its last."""
    # asyncio has no public way to ask; these are the queues of its ``BaseEventLoop``.
    known: Any = loop
    now = loop.time()
    if known._ready or any(  # noqa: SLF001
        timer.when() <= now and not timer.cancelled()
        for timer in known._scheduled  # noqa: SLF001
    ):
        return False
    selector: BaseSelector | None = getattr(known, "_selector", None)
    return selector is None or not selector.select(0)
