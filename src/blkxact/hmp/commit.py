"""``commit``: write what an overlay holds into its backing file, while everybody waits.

Invariant: the overlay is drained meanwhile, so nobody reads a mixture of old and new.

Only when the backing file has everything, durably, is the overlay emptied, if its format can.

QEMU's counterpart: bdrv_commit in ``block/commit.c``, hmp_commit.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.chain import backing_chain_next, skip_filters, skip_implicit_filters
from blkxact.block.chain_copy import ChainCopy
from blkxact.block.drain import drained
from blkxact.block.insert_filter import open_filter
from blkxact.block.types import Permission
from blkxact.blockdev.block_graph import below_backends
from blkxact.drivers.commit_top import CommitTopDriver
from blkxact.errors import QmpError, os_error, strerror

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.block.graph import Graph
    from blkxact.block.node import BlockNode

    from .host import Context


async def commit(context: Context, device: str) -> None:
    """Commit one device, or ``all``; what fails is said in the reply."""
    if device == "all":
        below = below_backends(context.layer.graph, context.layer.backends)
        nodes = [image for node in below if (image := skip_filters(node)).backing]
    else:
        backend = context.layer.named_backend(device)
        if backend is None:
            context.answer(f"Device '{device}' not found\n")
            return
        if backend.node is None:
            context.answer(f"Device '{device}' has no medium\n")
            return
        nodes = [skip_implicit_filters(backend.node)]
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
    graph, blockdev = context.layer.graph, context.layer.blockdev
    was_read_only = backing.read_only
    graph.ref(backing)
    try:
        async with drained([node]):
            try:
                await blockdev.set_read_only(backing, False)
            except QmpError as error:
                raise os_error(errno.EACCES) from error
            try:
                await _write_below(context, node, backing)
            finally:
                await blockdev.set_read_only(backing, was_read_only)
    except QmpError as error:
        context.answer(f"{error.desc}\n")
        raise os_error(errno.EPERM) from error
    finally:
        graph.unref(backing)


async def _write_below(context: Context, node: BlockNode, backing: BlockNode) -> None:
    """Copy what the image holds into its backing file, which is below a filter meanwhile."""
    graph = context.layer.graph
    with ExitStack() as undo:
        # WRITE_UNCHANGED is for emptying the image.
        needed = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED
        source = _insert(graph, node, needed, undo)
        top = await open_filter(graph, CommitTopDriver, {"backing": backing})
        undo.callback(graph.unref, top)
        graph.set_backing(node, top)
        undo.callback(graph.set_backing, node, backing)
        target = _insert(graph, backing, Permission.WRITE | Permission.RESIZE, undo)
        if node.length > backing.length:
            await target.truncate(node.length)
        await ChainCopy(source, target, backing_chain_next(node)).run()
        await target.flush()
        await _make_empty(node)
        await source.flush()


async def _make_empty(node: BlockNode) -> None:
    node.write_generation += 1
    try:
        await node.driver.make_empty()
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def _insert(graph: Graph, node: BlockNode, perm: Permission, undo: ExitStack) -> Child:
    backend = BlockBackend(graph, perm=perm, shared=Permission.ALL)
    backend.insert(node)
    undo.callback(backend.close)
    assert backend.root is not None
    return backend.root
