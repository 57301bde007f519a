"""Drivers and roots whose every step a test decides."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Mapping
from types import FrameType

from tests.environment import environment

from blkxact.block.child import Child, Parent
from blkxact.block.driver_api import BlockDriver
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Permission, Status, WriteFlags
from blkxact.errors import QmpError

P = Permission
READ_WRITE = P.CONSISTENT_READ | P.WRITE
DATA = Status.DATA | Status.ALLOCATED
ZERO = Status.ZERO | Status.ALLOCATED
FILTERED = ChildRole.FILTERED | ChildRole.PRIMARY


def context(name: str = "n", *, read_only: bool = False) -> OpenContext:
    return OpenContext(environment(), name, read_only)


class ScriptedDriver(BlockDriver):
    """A protocol in memory. ``hold`` stops requests, ``errors`` fails them, ``log`` tells them."""

    format_name = "memory"
    is_protocol = True

    def __init__(self, children: Mapping[str, Child], size: int, *, read_only: bool) -> None:
        super().__init__(context(read_only=read_only), children)
        self.data = bytearray(size)
        self.length = size
        self.log: list[tuple] = []
        self.errors: dict[str, int] = {}
        self.hold: asyncio.Event | None = None
        self.extents: list[Extent] | None = None
        self.locks: list[tuple[Permission, Permission]] = []
        self.refuse_locks: str | None = None
        self.drains = 0
        self.closed = False

    @classmethod
    async def open(cls, context, options, children):
        raise NotImplementedError

    async def close(self) -> None:
        await self._step("close")
        self.closed = True

    async def _step(self, name: str, *what) -> None:
        self.log.append((name, *what))
        if self.hold is not None:
            await self.hold.wait()
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]))

    async def pread(self, offset, length):
        await self._step("pread", offset, length)
        part = bytes(self.data[offset : offset + length])
        return part + bytes(length - len(part))

    async def pwrite(self, offset, payload, flags=WriteFlags.NONE):
        await self._step("pwrite", offset, len(payload))
        end = offset + len(payload)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = payload
        self.length = len(self.data)

    async def pwrite_zeroes(self, offset, length, flags=WriteFlags.NONE):
        await self._step("pwrite_zeroes", offset, length, WriteFlags(flags))
        self.data[offset : offset + length] = bytes(length)

    async def pdiscard(self, offset, length):
        await self._step("pdiscard", offset, length)

    async def flush(self):
        await self._step("flush")

    async def block_status(self, offset, length):
        await self._step("block_status", offset, length)
        if self.extents is None:
            return [Extent(offset, length, DATA)]
        return [e for e in self.extents if offset <= e.offset < offset + length]

    async def truncate(self, length, *, prealloc="off"):
        await self._step("truncate", length)
        self.data = self.data[:length] + bytes(max(0, length - len(self.data)))
        self.length = length

    def apply_permissions(self, perm, shared):
        if self.refuse_locks and perm & P.WRITE:
            raise QmpError(self.refuse_locks)
        self.locks.append((perm, shared))

    def drain_begin(self):
        self.drains += 1

    def drain_end(self):
        self.drains -= 1


class FormatDriver(ScriptedDriver):
    """A format: has a ``file`` and may have a ``backing``. ``extents`` are its own layer's."""

    format_name = "format"
    is_protocol = False
    supports_backing = True


class FilterDriver(ScriptedDriver):
    """A filter of ``file`` that passes everything on."""

    format_name = "filter"
    is_protocol = False
    is_filter = True

    async def pwrite(self, offset, payload, flags=WriteFlags.NONE):
        await self._step("pwrite", offset, len(payload))
        await self.children["file"].pwrite(offset, payload, flags)

    async def block_status(self, offset, length):
        return [Extent(offset, length, Status.NONE)]


class NosyFilter(FilterDriver):
    """A filter that must see reads."""

    sees_reads = True


def make_node(
    graph: Graph,
    name: str,
    kind: type[ScriptedDriver] = ScriptedDriver,
    *,
    size: int = 1 << 20,
    read_only: bool = False,
    file: BlockNode | None = None,
    backing: BlockNode | None = None,
) -> BlockNode:
    """Return an open node that the test holds."""
    node = BlockNode(name, read_only=read_only)
    graph.add(node)
    graph.ref(node)
    if file is not None:
        role = FILTERED if kind.is_filter else ChildRole.IMAGE
        graph.attach(node, file, "file", role)
    node.opened(kind(node.children, size, read_only=read_only))
    graph.refresh(node)
    if backing is not None:
        graph.set_backing(node, backing)
    return node


class Root(Parent):
    """A root that counts how often it is stopped, with requests that a test ends."""

    def __init__(self, name: str = "root") -> None:
        self.name = name
        self.stopped = 0
        self.busy = False
        self.rest = asyncio.Event()

    def parent_description(self) -> str:
        return f"root '{self.name}'"

    def quiesce(self) -> None:
        self.stopped += 1

    def resume(self) -> None:
        self.stopped -= 1
        assert self.stopped >= 0

    def is_idle(self) -> bool:
        return not self.busy

    async def idle(self) -> None:
        while self.busy:
            self.rest.clear()
            await self.rest.wait()

    def end(self) -> None:
        self.busy = False
        self.rest.set()


class Holder(Root):
    """A root that stays at its node, as a job does."""

    stay_at_node = True


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions of blkxact are called, but by a collection of garbage."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call" and "blkxact" in frame.f_code.co_filename

    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls
