"""A server and a client of ours on the simulated loop, over a network that breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from blkxact.block.node import BlockNode
from blkxact.blockdev.blockdev import Blockdev
from blkxact.export.exports import Exports
from blkxact.export.nbd_connection import NbdConnection
from blkxact.export.nbd_memory import Memory
from blkxact.qapi.block_export import BlockExportOptionsNbd
from blkxact.qapi.validation import validate
from blkxact.testing.loop import SimulatedLoop
from blkxact.testing.memory_file import MemoryStorage
from blkxact.testing.network import MemoryNetwork
from tests.environment import environment

PATH = "/server"
DISK = "/disk"


class Simulated:
    """``storage`` keeps the file that the server exports; ``blockdev`` is the client's side."""

    def __init__(self, loop: SimulatedLoop, size: int = 1 << 20, **server: Any) -> None:
        self.random: random.Random = loop.random
        self.clock = loop.clock
        self.network = MemoryNetwork(loop.random)
        self.storage = MemoryStorage(loop.random)
        self.size = size
        self._there = Blockdev(environment(self.storage, self.clock, loop.random))
        self._export_options = {"writable": True, **server}
        self.exports = Exports(self._there.graph, {}, self._no_bitmap, lambda *_: None)
        self.exports.served = True
        self.blockdev = Blockdev(
            environment(MemoryStorage(), self.clock, loop.random, network=self.network)
        )
        self.graph = self.blockdev.graph

    @staticmethod
    def _no_bitmap(node: str, name: str) -> Any:
        raise NotImplementedError

    async def serve(self) -> None:
        """Make the disk and export it."""
        file = await self.storage.create(DISK)
        await file.truncate(self.size)
        await file.close()
        await self._there.add(
            {"driver": "file", "filename": DISK, "node-name": "disk", "discard": "unmap"}
        )
        options = {"type": "nbd", "id": "e", "node-name": "disk", **self._export_options}
        self.exports.add(validate(BlockExportOptionsNbd, options))
        self.start()

    def start(self) -> None:
        """Take clients."""
        owner = SimpleNamespace(
            exports=self.exports,
            clock=self.clock,
            tls=None,
            memory=Memory(),
            next_client=lambda: 1,
            handshake_s=0,
            forget=lambda _: None,
        )
        self.network.listen(PATH, lambda: NbdConnection(owner))

    def kill(self) -> None:
        """Be gone, all at once."""
        self.network.stop(PATH)
        self.network.break_all()

    async def open(self, name: str = "n", **options: Any) -> BlockNode:
        members = {name.replace("_", "-"): value for name, value in options.items()}
        server = {"type": "unix", "path": PATH}
        given = {"driver": "nbd", "node-name": name, "server": server, "export": "disk"}
        return await self.blockdev.add({"discard": "unmap", **given, **members})

    async def content(self) -> bytes:
        """Return what the server's disk holds."""
        file = await self.storage.open(DISK, read_only=True)
        data = bytes(await file.pread(0, self.size))
        await file.close()
        return data

    async def close(self) -> None:
        await self.blockdev.close_all()
        self.network.break_all()
        await self.exports.close_all()
        await self._there.close_all()
        await asyncio.sleep(0.1)


async def failing_with(code: int, request: Awaitable[object]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked
        await request
    assert caught.value.errno == code
