"""The events of an emulator, as a test looks at them.

Events come from the emulator's thread; a list of them grows at its end and is never changed else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, overload

from blkxact.runtime.events import Event

from .errors import KitError

EVENT_TIMEOUT_S: Final = 20.0


class Events(Sequence[Event]):
    """All events since the start, as they are on the wire, also those of before a restart."""

    def __init__(self) -> None:
        self._all: list[Event] = []
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[Event], bool], Future[Event]]] = []

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._all))

    def __repr__(self) -> str:
        return f"<Events {[event['event'] for event in self]}>"

    def named(self, name: str, **data: Any) -> list[dict[str, Any]]:
        """Return the data of all events of that name so far that have these members."""
        fits = _matcher(name, data)
        return [event.get("data", {}) for event in self if fits(event)]

    def wait(self, name: str, timeout: float = EVENT_TIMEOUT_S, **data: Any) -> dict[str, Any]:
        """Return the data of the first event of that name that has these members (``device=``...).

        It may have come already. Raises ``KitError`` if it has not come after ``timeout`` seconds.
        """
        try:
            event = self._promise(name, data).result(timeout)
        except TimeoutError:
            raise KitError(self._missed(name, data, timeout)) from None
        found: dict[str, Any] = event.get("data", {})
        return found

    async def arrive(
        self,
        name: str,
        timeout: float = EVENT_TIMEOUT_S,  # noqa: ASYNC109 - as ``wait``
        **data: Any,
    ) -> dict[str, Any]:
        """Do the same in an asyncio test, whose loop goes on meanwhile."""
        promise = asyncio.wrap_future(self._promise(name, data))
        try:
            event = await asyncio.wait_for(promise, timeout)
        except TimeoutError:
            raise KitError(self._missed(name, data, timeout)) from None
        found: dict[str, Any] = event.get("data", {})
        return found

    def add(self, event: Event) -> None:
        """Take an event (from the emulator's thread)."""
        with self._lock:
            self._all.append(event)
            due = [future for fits, future in self._waiting if fits(event)]
            self._waiting = [one for one in self._waiting if one[1] not in due]
        for future in due:
            if future.set_running_or_notify_cancel():
                future.set_result(event)

    def _promise(self, name: str, data: dict[str, Any]) -> Future[Event]:
        future: Future[Event] = Future()
        fits = _matcher(name, data)
        with self._lock:
            found = next(filter(fits, self._all), None)
            if found is None:
                self._waiting.append((fits, future))
        if found is not None:
            future.set_result(found)
        return future

    def _missed(self, name: str, data: dict[str, Any], timeout: float) -> str:
        came = ", ".join(event["event"] for event in self._all[-10:]) or "none"
        wanted = f"{name} {data}" if data else name
        return f"no event {wanted} within {timeout:g} s; the last that came: {came}"


def _matcher(name: str, data: dict[str, Any]) -> Callable[[Event], bool]:
    wanted = {key.replace("_", "-"): value for key, value in data.items()}

    def fits(event: Event) -> bool:
        return bool(event["event"] == name and wanted.items() <= event.get("data", {}).items())

    return fits
