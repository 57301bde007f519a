"""What the human monitor needs of the emulator around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from blkxact.errors import QmpError, hints

if TYPE_CHECKING:
    from blkxact.block.backend import BlockBackend
    from blkxact.block.graph import Graph
    from blkxact.block.guest import Guest
    from blkxact.block.node import BlockNode
    from blkxact.blockdev.blockdev import Blockdev
    from blkxact.machine.machine import Machine
    from blkxact.machine.options import DriveOptions
    from blkxact.runtime.clock import Clock
    from blkxact.runtime.release import Release
    from blkxact.storage.api import Storage

T = TypeVar("T")

Query = Callable[[str, Mapping[str, Any]], Any]
"""Returns what the QMP command of that name returns for these arguments, or an awaitable of it."""


class HmpLayer(Protocol):
    """The part of ``BlockLayer`` that is used here."""

    clock: Clock
    storage: Storage
    backends: list[BlockBackend]
    parse_drive: Callable[[str], DriveOptions]
    machine: Machine
    on_quit: Callable[[], Any]

    @property
    def release(self) -> Release:
        """The release of QEMU that is emulated."""

    @property
    def graph(self) -> Graph:
        """The nodes."""

    @property
    def guest(self) -> Guest:
        """The requests of the guest."""

    @property
    def blockdev(self) -> Blockdev:
        """Opens and closes nodes."""

    async def close_unused_nodes(self) -> None:
        """Wait until the nodes that nobody wants any more are closed."""

    def find_backend(self, name: str) -> BlockBackend | None:
        """Return the device of that name, qdev id or QOM path."""

    def named_backend(self, name: str) -> BlockBackend | None:
        """Return the device of that name."""

    async def flush_all(self) -> None:
        """Flush every disk; what fails is left to later flushes."""

    def lookup(self, device: str | None, node_name: str | None) -> BlockNode:
        """Return a node; raises ``QmpError``."""


class Context:
    """One command line being run.

    ``reply`` collects what the command answers. As an asynchronous context manager it holds
    ``lock``, the lock of all commands. ``wait`` releases it while a request of the guest is waited
    for, because another session may have to resume that request.
    """

    def __init__(self, layer: HmpLayer, query: Query | None, lock: asyncio.Lock | None) -> None:
        self.layer = layer
        self.reply: list[str] = []
        self._query = query
        self._lock = lock
        self._held = False

    async def __aenter__(self) -> Self:
        await self._acquire()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._release()

    async def _acquire(self) -> None:
        if self._lock is not None:
            await self._lock.acquire()
            self._held = True

    def _release(self) -> None:
        """Release the lock unless a cancellation came while it was being taken again."""
        if self._lock is not None and self._held:
            self._held = False
            self._lock.release()

    def answer(self, text: str) -> None:
        """Add text to the reply."""
        self.reply.append(text)

    def answer_error(self, error: QmpError, prefix: str = "") -> None:
        """Add an error and its hints to the reply."""
        self.answer("".join(f"{line}\n" for line in (prefix + error.desc, *hints(error))))

    def complain(self, text: str) -> None:
        """Print where the emulator prints errors (QEMU's standard error), or into the reply."""
        if text and not self.layer.guest.complain(text):
            self.answer(text)

    def print(self, text: str) -> None:
        """Print where the emulator prints (QEMU's standard output), or else into the reply."""
        if text and not self.layer.guest.print(text):
            self.answer(text)

    async def query(self, command: str) -> Any:
        """Return the answer of a query command."""
        return await self.execute(command, {})

    async def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Return the answer of a QMP command; raises ``QmpError``."""
        assert self._query is not None, "no queries were given"
        result = self._query(command, arguments)
        return await result if asyncio.iscoroutine(result) else result

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, with the lock released meanwhile."""
        self._release()
        try:
            return await work
        finally:
            await self._acquire()
