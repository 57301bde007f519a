"""Goes on with a coroutine that was started outside of a task."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Resumed(Generic[T]):
    """The rest of a coroutine that was started outside of a task and waits for something."""

    def __init__(self, started: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._started = started
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001 - it is for the coroutine
                    waits_for = self._started.throw(error)
                else:
                    waits_for = self._started.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
