"""A system call that takes as long as the test wants, and a request that is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

LIMIT_S = 30


class Held:
    """Stands in for a system call; it returns when ``go_on`` is set."""

    def __init__(self) -> None:
        self.started, self.go_on, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, *_: Any) -> None:
        self.started.set()
        assert self.go_on.wait(LIMIT_S)
        self.ended.set()


async def assert_cancelled_request_runs_to_its_end(request: Awaitable[Any], held: Held) -> None:
    task = asyncio.ensure_future(request)
    assert await asyncio.to_thread(held.started.wait, LIMIT_S)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held.ended.is_set()
