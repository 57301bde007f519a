"""``commit``: write what an overlay holds into its backing file, while everybody waits.

Invariant: the overlay is apart from its backing file meanwhile, so nobody reads a mixture, and the
backing file may be written.

The overlay keeps its clusters, which now say the same as the backing file (QEMU empties it where
the format can).

QEMU's counterpart: bdrv_commit in ``block/commit.c``, hmp_commit.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from blkxact.block.backend import BlockBackend
from blkxact.block.block_copy import backing_chain_next
from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.block.types import Permission, Status
from blkxact.errors import QmpError, os_error, strerror

if TYPE_CHECKING:
    from blkxact.block.node import BlockNode

    from .host import Context

STATUS_WINDOW = 64 << 20
STEP = 1 << 20
"""Most bytes of one read or write."""


async def commit(context: Context, device: str) -> None:
    """Commit one device, or ``all``; what fails is said in the reply."""
    if device == "all":
        nodes = [b.node for b in context.layer.backends if b.node and b.node.backing]
    else:
        backend = context.layer.find_backend(device)
        if backend is None:
            context.answer(f"Device '{device}' not found\n")
            return
        if backend.node is None:
            context.answer(f"Device '{device}' has no medium\n")
            return
        nodes = [backend.node]
    try:
        for node in nodes:
            await _commit_node(context, node)
    except OSError as error:
        context.answer(f"'commit' error for '{device}': {strerror(error)}\n")


async def _commit_node(context: Context, node: BlockNode) -> None:
    """Commit one image; raises ``OSError`` in the manner of QEMU's return codes."""
    backing = node.backing
    if backing is None:
        raise os_error(errno.ENOTSUP)
    if node.blockers.is_blocked(BlockOp.COMMIT_SOURCE) or backing.blockers.is_blocked(
        BlockOp.COMMIT_TARGET
    ):
        raise os_error(errno.EBUSY)
    graph = context.layer.graph
    was_read_only = backing.read_only
    graph.ref(backing)
    try:
        async with drained([node]):
            graph.set_backing(node, None)
            try:
                await _write_below(context, node, backing)
            finally:
                await context.layer.blockdev.set_read_only(backing, was_read_only)
                graph.set_backing(node, backing)
    except QmpError as error:
        context.answer(f"{error.desc}\n")
        raise os_error(errno.EACCES) from error
    finally:
        graph.unref(backing)


async def _write_below(context: Context, node: BlockNode, backing: BlockNode) -> None:
    await context.layer.blockdev.set_read_only(backing, False)
    target = BlockBackend(
        context.layer.graph, perm=Permission.WRITE | Permission.RESIZE, shared=Permission.ALL
    )
    target.insert(backing)
    try:
        if node.length > backing.length:
            await target.truncate(node.length)
        for offset in range(0, node.length, STATUS_WINDOW):
            await _copy_window(node, target, offset)
        await node.flush()
        await target.flush()
    finally:
        target.close()


async def _copy_window(node: BlockNode, target: BlockBackend, offset: int) -> None:
    base = backing_chain_next(node)
    for extent in await node.block_status(offset, STATUS_WINDOW, base=base):
        if not extent.status & Status.ALLOCATED:
            continue
        if extent.status & Status.ZERO:
            await target.pwrite_zeroes(extent.offset, extent.length)
            continue
        end = extent.offset + extent.length
        for start in range(extent.offset, end, STEP):
            length = min(STEP, end - start)
            await target.pwrite(start, await node.pread(start, length))
