"""Disks in memory for tests of copying: they tell extents, fail and hold up on demand."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block.child import Child, Parent
from blkxact.block.driver_api import BlockDriver
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Permission, Status, WriteFlags
from blkxact.runtime.clock import SystemClock
from blkxact.storage.api import FileRange
from blkxact.storage.errors import CopyError
from tests.environment import environment

KIB = 1024
BLOCK = 4 * KIB
"""Unit in which a memory disk knows what it holds."""

HOLE, ZERO, DATA = range(3)


class MemoryFile:
    """Bytes that stand for a file of the host."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.fail_reading = False

    def bytes_at(self, offset: int, length: int) -> bytes:
        if self.fail_reading:
            raise CopyError(OSError(errno.EIO, "sick file"), reading=True)
        return bytes(self.data[offset : offset + length])

    async def pread(self, offset: int, length: int) -> bytes:
        return self.bytes_at(offset, length)


Hook = Callable[[str, int, int], Awaitable[None]]


class MemoryDriver(BlockDriver):
    """``places``: whether extents tell their place in the file. ``log`` has every request."""

    format_name = "memory"
    is_protocol = True
    supports_backing = True
    supports_compressed_writes = True

    def __init__(self, context: OpenContext, length: int, *, places: bool = True) -> None:
        super().__init__(context, {})
        self.length = length
        self.file = MemoryFile(bytearray(length))
        self.kinds = [HOLE] * -(-length // BLOCK)
        self.places = places
        self.log: list[tuple[str, int, int]] = []
        self.hook: Hook | None = None

    @classmethod
    async def open(cls, context: Any, options: Any, children: Any) -> MemoryDriver:
        raise NotImplementedError

    async def _note(self, operation: str, offset: int, length: int) -> None:
        self.log.append((operation, offset, length))
        if self.hook is not None:
            await self.hook(operation, offset, length)

    def fill(self, offset: int, data: bytes) -> None:
        self.file.data[offset : offset + len(data)] = data
        self._mark(offset, len(data), DATA)

    def _mark(self, offset: int, length: int, kind: int) -> None:
        for block in range(offset // BLOCK, -(-(offset + length) // BLOCK)):
            self.kinds[block] = kind

    async def pread(self, offset: int, length: int) -> bytes:
        await self._note("read", offset, length)
        data = bytearray(self.file.data[offset : offset + length])
        backing = self.children.get("backing")
        if backing is not None:
            for extent in self.extents(offset, length):
                if not extent.status:
                    start = extent.offset - offset
                    below = await backing.pread(extent.offset, extent.length)
                    data[start : start + extent.length] = below
        return bytes(data)

    async def pwrite(self, offset: int, payload: Any, flags: Any = WriteFlags.NONE) -> None:
        name = "copy" if isinstance(payload, FileRange) else "write"
        await self._note(
            "compressed" if flags & WriteFlags.COMPRESSED else name, offset, len(payload)
        )
        if isinstance(payload, FileRange):
            payload = payload.file.bytes_at(payload.offset, payload.length)
        self.fill(offset, bytes(payload))

    async def pwrite_zeroes(self, offset: int, length: int, flags: Any = WriteFlags.NONE) -> None:
        await self._note("zero", offset, length)
        self.file.data[offset : offset + length] = bytes(length)
        self._mark(offset, length, ZERO)

    async def flush(self) -> None:
        await self._note("flush", 0, 0)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        await self._note("status", offset, length)
        return self.extents(offset, length)

    def extents(self, offset: int, length: int) -> list[Extent]:
        found: list[Extent] = []
        end = offset + length
        while offset < end:
            kind = self.kinds[offset // BLOCK]
            stop = min(end, (offset // BLOCK + 1) * BLOCK)
            while stop < end and self.kinds[stop // BLOCK] == kind:
                stop = min(end, stop + BLOCK)
            status = {HOLE: 0, ZERO: Status.ZERO | Status.ALLOCATED}.get(
                kind, Status.DATA | Status.ALLOCATED
            )
            file = self.file if kind == DATA and self.places else None
            place = offset if file else 0
            found.append(Extent(offset, stop - offset, Status(status), file, place))
            offset = stop
        return found


class MemoryDisks:
    """A graph with memory disks; ``clock`` may be a simulated one."""

    def __init__(self, clock: Any = None) -> None:
        self.graph = Graph(random.Random(1))
        self.clock = clock or SystemClock()
        self.root = Parent()

    def context(self, name: str, **more: Any) -> OpenContext:
        return OpenContext(
            environment(clock=self.clock, rng=random.Random(1), graph=self.graph),
            node_name=name,
            read_only=False,
            **more,
        )

    def disk(self, name: str, length: int, **how: Any) -> MemoryDriver:
        node = BlockNode(name)
        driver = MemoryDriver(self.context(name), length, **how)
        driver.children = node.children
        node.opened(driver)
        self.graph.add(node)
        self.graph.ref(node)
        return driver

    def edge(self, name: str, perm: Permission = Permission.CONSISTENT_READ) -> Child:
        return self.graph.attach(self.root, self.graph.nodes[name], perm=perm)

    def backing(self, overlay: str, backing: str) -> None:
        self.graph.set_backing(self.graph.nodes[overlay], self.graph.nodes[backing])

    def guest(self, name: str) -> BlockBackend:
        backend = BlockBackend(
            self.graph, "guest", perm=Permission.WRITE | Permission.CONSISTENT_READ
        )
        backend.insert(self.graph.nodes[name])
        return backend

    def filter_node(self, name: str, children: dict[str, str]) -> BlockNode:
        """Return a node with its child edges, not open yet."""
        node = BlockNode(name)
        self.graph.add(node)
        self.graph.ref(node)
        for edge, child in children.items():
            role = ChildRole.FILTERED | ChildRole.PRIMARY
            if edge == "target":
                role = ChildRole.DATA
            self.graph.attach(node, self.graph.nodes[child], edge, role)
        return node

    def opened(self, node: BlockNode, driver: BlockDriver) -> None:
        node.opened(driver)
        self.graph.refresh(node)


def failing(operation: str, at: int, code: int = errno.EIO, *, once: bool = True) -> Hook:
    """Return a hook that fails requests of one kind that touch a byte."""
    armed = [True]

    async def hook(name: str, offset: int, length: int) -> None:
        if name == operation and offset <= at < offset + length and armed[0]:
            armed[0] = not once
            raise OSError(code, os.strerror(code))

    return hook


def in_turn(*hooks: Hook) -> Hook:
    """Return a hook that calls others, one after the other."""

    async def hook(name: str, offset: int, length: int) -> None:
        for one in hooks:
            await one(name, offset, length)

    return hook


class Gate:
    """A hook that holds up requests of one kind until it is opened."""

    def __init__(self, *operations: str) -> None:
        self.operations = operations
        self.opened = asyncio.Event()
        self.waiting = 0
        self.arrived = asyncio.Event()

    async def __call__(self, name: str, offset: int, length: int) -> None:
        if name in self.operations and not self.opened.is_set():
            self.waiting += 1
            self.arrived.set()
            await self.opened.wait()
            self.waiting -= 1
