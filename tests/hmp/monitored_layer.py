"""A layer as the human monitor sees it, over disks in memory."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.environment import options_of
from tests.memory_disks import MemoryDisks

from blkxact.block.backend import BlockBackend
from blkxact.block.guest import Guest
from blkxact.block.types import Permission
from blkxact.drivers.blkdebug import BlkdebugDriver
from blkxact.errors import QmpError
from blkxact.hmp import run
from blkxact.machine.machine import Machine
from blkxact.runtime.release import DEFAULT_RELEASE

KIB = 1024
MIB = 1024 * KIB

TIMES = re.compile(r"ops; .* ops/sec\)|,\d+:\d+:.*")


class NoReopen:
    """Stands for ``blockdev``: memory disks can always be written."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    async def set_read_only(self, node: Any, read_only: bool) -> None:
        self.asked.append((node.node_name, read_only))
        node.driver.read_only = read_only


class Layer:
    """disk <- dbg <- device d0 (qdev id q0); and a node ``other`` without a device."""

    def __init__(self, *, console: bool = True) -> None:
        self.disks = MemoryDisks()
        self.clock = self.disks.clock
        self.graph = self.disks.graph
        self.storage: Any = None
        self.release = DEFAULT_RELEASE
        self.printed: list[str] = []
        self.guest = Guest(self.printed.append if console else None)
        self.blockdev: Any = NoReopen()
        self.backends: list[BlockBackend] = []
        self.lock = asyncio.Lock()
        self.answers: dict[str, Any] = {}
        self.machine = Machine(lambda _: None)

    async def open(self, length: int = MIB) -> Layer:
        self.disk = self.disks.disk("disk", length)
        self.other = self.disks.disk("other", length)
        node = self.disks.filter_node("dbg", {"image": "disk"})
        context = self.disks.context("dbg")
        self.blkdebug = await BlkdebugDriver.open(
            context, options_of(BlkdebugDriver, node.children), node.children
        )
        self.disks.opened(node, self.blkdebug)
        self.add_device("d0", "dbg", qdev_id="q0")
        return self

    def add_device(self, name: str, node: str | None, qdev_id: str | None = None) -> BlockBackend:
        backend = BlockBackend(self.graph, name, qdev_id=qdev_id, perm=Permission.CONSISTENT_READ)
        if node is not None:
            backend.insert(self.graph.nodes[node])
        self.backends.append(backend)
        return backend

    def find_backend(self, name: str) -> BlockBackend | None:
        return next((b for b in self.backends if name in (b.name, b.qdev_id)), None)

    def named_backend(self, name: str) -> BlockBackend | None:
        return next((b for b in self.backends if name == b.name), None)

    async def flush_all(self) -> None:
        """There is nothing to flush."""

    def lookup(self, device: str | None, node_name: str | None) -> Any:
        if node_name not in self.graph.nodes:
            raise QmpError(f"Cannot find device='' nor node-name='{node_name}'")
        return self.graph.nodes[node_name]

    async def hmp(self, line: str) -> str:
        """Run a line, which takes the lock itself."""
        return await run(self, line, query=lambda name, _: self.answers[name], lock=self.lock)

    async def io(self, command: str, device: str = "d0") -> str:
        """Run a qemu-io command; return what was printed, without times. Nothing is replied."""
        self.printed.clear()
        assert await self.hmp(f'qemu-io {device} "{command}"') == ""
        return self.output()

    def output(self) -> str:
        return TIMES.sub("T", "".join(self.printed))
