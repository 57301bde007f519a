"""Work begun ahead of its turn: what comes next is looked at while the last is dealt with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    items: AsyncIterator[T], work: Callable[[T], Coroutine[Any, Any, R]], *, ahead: int
) -> AsyncGenerator[tuple[T, R], None]:
    """Yield each item with what ``work`` returns for it, in order; ``ahead`` more are worked at.

    Raises the first failure, of an item or of ``items``; what comes after it does not matter. Who
    stops before the end closes the iterator (``aclosing``), and with it the work.
    """
    tasks: deque[tuple[T, asyncio.Task[R]]] = deque()
    failure: Exception | None = None
    try:
        try:
            async for item in items:
                tasks.append((item, asyncio.create_task(work(item))))
                if len(tasks) > ahead:
                    yield await _first(tasks)
        except Exception as error:  # noqa: BLE001 - it is raised below, after those before it
            failure = error
        while tasks:
            yield await _first(tasks)
        if failure is not None:
            raise failure
    finally:
        for _, task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait([task for _, task in tasks])


async def _first(tasks: deque[tuple[T, asyncio.Task[R]]]) -> tuple[T, R]:
    """Take the first, when it is done."""
    item, task = tasks[0]
    result = await task
    tasks.popleft()
    return item, result
