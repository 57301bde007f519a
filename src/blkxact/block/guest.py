"""Requests that a person makes in place of the guest (``qemu-io``).

Invariants:

* A request goes on after the command that made it; it is known here until it ends.
* What a request has to say when it ends goes to ``console``, as QEMU prints it on its standard
  output. Without one it is kept for the next command that can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Guest:
    """Requests under way.

    ``console`` and ``errors`` (standard error; None: there is none) take text, ends of lines
    included.
    """

    def __init__(
        self,
        console: Callable[[str], None] | None = None,
        errors: Callable[[str], None] | None = None,
    ) -> None:
        self.console = console
        self.errors = errors
        self.unsaid: list[str] = []
        """What ended requests said while there was no console."""
        self._tasks: dict[asyncio.Task[None], object] = {}

    def print(self, text: str) -> bool:
        """Print on the console; return whether there is one."""
        if self.console is None:
            return False
        self.console(text)
        return True

    def complain(self, text: str) -> bool:
        """Print an error; return whether there is somewhere to print it."""
        if self.errors is None:
            return self.print(text)
        self.errors(text)
        return True

    def tell_later(self, text: str) -> None:
        """Print on the console, or keep the text for the next command."""
        if text and not self.print(text):
            self.unsaid.append(text)

    def take_unsaid(self) -> str:
        """Return what was kept, once."""
        text = "".join(self.unsaid)
        self.unsaid.clear()
        return text

    async def start(self, owner: object, request: Coroutine[Any, Any, None]) -> None:
        """Start a request for ``owner``; return when it runs, up to where it waits first."""
        running = asyncio.Event()

        async def run() -> None:
            running.set()
            await request

        task = asyncio.create_task(run())
        self._tasks[task] = owner
        task.add_done_callback(self._ended)
        await running.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.result()

    def tasks(self, owner: object = None) -> list[asyncio.Task[None]]:
        """Return the requests under way, of one owner or all."""
        return [task for task, who in self._tasks.items() if owner is None or who is owner]

    async def idle(self, owner: object = None) -> None:
        """Return when no request is under way."""
        while tasks := self.tasks(owner):
            await asyncio.wait(tasks)
