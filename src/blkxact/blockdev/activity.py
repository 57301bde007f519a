"""Active nodes, and inactive ones, whose image another process uses.

Invariants:

* A node becomes inactive after all nodes above it, and active before them. What is asked for is
  done for all nodes or, after an error, for none.
* Before a node becomes inactive all that is cached is written, and its persistent bitmaps are
  stored; these are then the image's alone. Only then are the locks of its file given up.
* A node that becomes active has its locks before the image is read again, bitmaps included.

QEMU's counterpart: ``bdrv_activate`` and ``bdrv_inactivate`` in ``block.c``, ``qcow2_inactivate``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial

from blkxact.bitmap import BitmapCheck
from blkxact.block.drain import drained
from blkxact.block.graph import Graph
from blkxact.block.graph_change import downwards, refresh_limits_above
from blkxact.block.node import BlockNode
from blkxact.errors import QmpError, strerror


def has_active_parent(node: BlockNode) -> bool:
    """Return whether a node above is active."""
    parents = [edge.parent for edge in node.parents]
    return any(isinstance(parent, BlockNode) and not parent.inactive for parent in parents)


async def inactivate(graph: Graph, tops: Iterable[BlockNode]) -> None:
    """Make nodes inactive, and those below them that no active node needs.

    What is below a node that was inactive already stays as it is. Raises ``QmpError``: EPERM where
    somebody has to write.
    """
    nodes = _without_active_parents(tops)
    for node in nodes:
        _check_users(node)
    async with drained(nodes), AsyncExitStack() as undo:
        for node in nodes:
            if node.is_writable and not node.driver.is_protocol:
                undo.push_async_callback(node.driver.activate_write)
                await _write_back(node)
        graph.set_active(nodes, active=False)
        undo.pop_all()
        for node in nodes:
            _forget_bitmaps(node)


def _without_active_parents(tops: Iterable[BlockNode]) -> list[BlockNode]:
    """Return the active nodes, parents first, above which no node will be active."""
    going: dict[BlockNode, None] = {}

    def visit(node: BlockNode) -> None:
        parents = [edge.parent for edge in node.parents if isinstance(edge.parent, BlockNode)]
        if not node.inactive and all(one.inactive or one in going for one in parents):
            going[node] = None
            for edge in node.children.values():
                visit(edge.node)

    for top in tops:
        visit(top)
    return list(going)


def _check_users(node: BlockNode) -> None:
    if any(edge.parent.may_inactivate() is False for edge in node.parents):
        raise QmpError(os.strerror(errno.EPERM))
    for bitmap in node.bitmaps.values():
        if bitmap.stored:
            bitmap.check(BitmapCheck.ALLOW_READ_ONLY)


async def _write_back(node: BlockNode) -> None:
    """Leave an image in a state in which another process may open it."""
    try:
        await node.store_bitmaps()
        await node.driver.deactivate_write()
    except OSError as error:
        raise QmpError(strerror(error)) from error


def _forget_bitmaps(node: BlockNode) -> None:
    """Forget the bitmaps that are in the image."""
    for name, bitmap in list(node.bitmaps.items()):
        if bitmap.stored:
            del node.bitmaps[name]


async def _give_back(node: BlockNode) -> None:
    await _write_back(node)
    _forget_bitmaps(node)


async def activate(graph: Graph, tops: Iterable[BlockNode]) -> None:
    """Make nodes and all below them active. Raises ``QmpError``."""
    nodes = downwards(tops)
    inactive = [node for node in nodes if node.inactive]
    async with drained(nodes), AsyncExitStack() as undo:
        graph.set_active(nodes, active=True)
        undo.callback(partial(graph.set_active, inactive, active=False))
        for node in reversed(nodes):
            try:
                if node in inactive:
                    await _read_again(node, undo)
                elif inactive and node.driver.is_protocol:
                    # It was active, but what is above it left its file to others.
                    await node.driver.invalidate_cache()
            except OSError as error:
                reason = f"Could not refresh total sector count: {strerror(error)}"
                raise QmpError(reason) from error
            except QmpError as error:
                layer = node.driver.format_name
                raise QmpError(f"Could not reopen {layer} layer: {error.desc}") from error
        undo.pop_all()


async def _read_again(node: BlockNode, undo: AsyncExitStack) -> None:
    """Take over what another process has left. Raises ``QmpError`` and ``OSError``."""
    length = node.length
    await node.driver.invalidate_cache()
    if node.is_writable and not node.driver.is_protocol:
        undo.push_async_callback(_give_back, node)
    await node.load_bitmaps()
    refresh_limits_above(node)
    if node.length != length:
        node.length_changed()
