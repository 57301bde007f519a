"""Copying what lower layers hold into a node's own layer, while the guest writes to the node.

The disk reads the same afterwards, so no bitmap is marked.

Invariants:

* The guest's writes and the copies of one range wait for each other. What a copy finds not
  allocated while it holds its range stays so until it has written it.
* Whole clusters are copied, so a copy never has to be completed by another.

QEMU's counterpart: ``bdrv_co_do_copy_on_readv`` in ``block/io.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from blkxact.storage.api import Buffer, Payload, Runs

from .adapted_requests import AlignedRequests, is_zero
from .copy_parts import copy_parts, reading
from .copy_plan import Method, Segment, method_of, round_down, round_up
from .types import SECTOR, Extent, Status, WriteFlags

if TYPE_CHECKING:
    from .node import BlockNode

UNCHANGED = WriteFlags.UNCHANGED


class _OwnLayer:
    """The target of a copy: a node's own layer, whose range is held alone."""

    def __init__(self, node: BlockNode) -> None:
        self.node = node
        self._requests = node.serialise_writes()

    def pread(self, offset: int, length: int) -> Coroutine[Any, Any, Buffer]:
        """Read without copying what is read."""
        return self._requests.pread(offset, length)

    def block_status(self, offset: int, length: int) -> Coroutine[Any, Any, list[Extent]]:
        return self.node.block_status(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        if is_zero(payload):
            await self.pwrite_zeroes(offset, len(payload), flags)
        else:
            await self._requests.inner.pwrite(offset, payload, flags | UNCHANGED)

    async def pwrite_runs(self, runs: Runs) -> None:
        inner = self._requests.inner
        if not isinstance(inner, AlignedRequests):
            await inner.pwrite_runs(runs)
            return
        for offset, payload in runs:
            await inner.pwrite(offset, payload, UNCHANGED)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        await self._requests.zeroes.pwrite_zeroes(offset, length, flags | UNCHANGED)


async def populate(
    node: BlockNode,
    offset: int,
    length: int,
    wanted: Callable[[Extent], bool],
    bottom: BlockNode | None = None,
) -> None:
    """Copy what is ``wanted`` of a range into a node's own layer; ``bottom`` is the last asked.

    The range is widened to whole clusters. Raises ``CopyError``.
    """
    unit = node.driver.cluster_size or SECTOR
    start, end = round_down(offset, unit), min(round_up(offset + length, unit), node.length)
    lock = node.serialise_writes().lock
    node.begin_request()
    try:
        held = await lock.acquire(start, end, exclusive=True)
        try:
            with reading():
                extents = await node.block_status(start, end - start, bottom=bottom)
            parts = [segment_of(extent, wanted) for extent in extents]
            # Zeroes by themselves: with data between them, these would be zeroed too before they
            # are written, and lost if that fails.
            zeroes = [part for part in parts if part.method is Method.ZERO]
            data = [part for part in parts if part.method in {Method.COPY, Method.READ}]
            node.write_generation += 1
            layer = _OwnLayer(node)
            source = node if node.copy_on_read is None else layer
            for some in filter(None, (zeroes, data)):
                await copy_parts(source, layer, some, copied=[])
        finally:
            lock.release(held)
    finally:
        node.end_request()


def enable(node: BlockNode) -> None:
    """Copy what is read from backing files into the node's own layer, from now on."""

    async def copy(offset: int, length: int) -> None:
        if not node.is_writable:
            return
        for extent in await node.block_status(offset, length):
            if is_not_own(extent):
                await populate(node, extent.offset, extent.length, is_not_own)

    node.copy_on_read = copy
    node.serialise_writes()
    node.refresh_limits()


def is_not_own(extent: Extent) -> bool:
    """Return whether the node that was asked does not decide the extent itself."""
    return extent.depth > 0 or not extent.status & Status.ALLOCATED


def is_below(extent: Extent) -> bool:
    """Return whether one of the layers below that were asked decides the extent."""
    return extent.depth > 0 and bool(extent.status & Status.ALLOCATED)


def segment_of(extent: Extent, wanted: Callable[[Extent], bool]) -> Segment:
    """Return how an extent is copied; one that is not ``wanted`` is skipped."""
    method = method_of(extent, own_layer_only=False) if wanted(extent) else Method.SKIP
    return Segment(extent.offset, extent.length, method, extent.file, extent.file_offset)
