"""A session and a table of commands to talk with, without sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from blkxact.errors import QmpError
from blkxact.qmp.request import Request
from blkxact.qmp.session import Session

from .inputs import lines


@dataclass(frozen=True)
class ToyCommand:
    allow_oob: bool = False


class ToyDispatcher:
    """``query-name`` and ``echo`` answer at once, ``wait`` when the test says so."""

    def __init__(self) -> None:
        self.commands = {
            "query-name": ToyCommand(),
            "echo": ToyCommand(),
            "wait": ToyCommand(),
            "fail": ToyCommand(),
            "break": ToyCommand(),
            "query-yank": ToyCommand(allow_oob=True),
        }
        self.waiting: list[asyncio.Future[Any]] = []
        self.executed: list[str] = []
        self.on_execute: Any = None

    def lookup(self, name: str) -> ToyCommand | None:
        return self.commands.get(name)

    def execute(
        self, name: str, arguments: dict[str, Any] | None, *, oob: bool, client: object
    ) -> Any:
        self.executed.append(name)
        if self.on_execute is not None:
            self.on_execute(name)
        if name == "echo":
            return arguments
        if name == "fail":
            raise QmpError("refused")
        if name == "break":
            raise ZeroDivisionError
        if name == "wait":
            future = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            return self._wait(future)
        return {}

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        return await future


CAPABILITIES = b'{"execute": "qmp_capabilities"}'
CAPABILITIES_OOB = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'


class Talk:
    """A session whose commands are answered at once, but for ``wait``."""

    def __init__(self, *, negotiate: bytes | None = CAPABILITIES) -> None:
        self.session = Session(ToyDispatcher().lookup, "toy")
        self.running: list[Request] = []
        self.greeting = self.read()
        if negotiate is not None:
            assert self.say(negotiate) == [{"return": {}}]

    def feed(self, data: bytes) -> None:
        self.session.receive(data)
        self.work()

    def work(self) -> None:
        while self.session.has_work:
            request = self.session.next_request()
            if request is None:
                continue
            if request.name == "wait":
                self.running.append(request)
            else:
                self.session.complete(request, None)

    def read(self) -> list[dict[str, Any]]:
        return lines(self.session.take_output())

    def say(self, data: bytes, cut: int | None = None) -> list[dict[str, Any]]:
        """Send data, whole or in pieces of ``cut`` bytes, and return the replies."""
        step = cut or max(len(data), 1)
        for start in range(0, len(data), step):
            self.feed(data[start : start + step])
        return self.read()

    def finish(self, result: Any = None) -> list[dict[str, Any]]:
        """Let the ``wait`` that was begun first end."""
        self.session.complete(self.running.pop(0), result)
        self.work()
        return self.read()
