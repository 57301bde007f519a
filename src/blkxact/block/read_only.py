"""Making a node in use read-only, or writable again, with the nodes that hold its data.

Laws:

* The node is drained meanwhile. Going read-only, all that is cached is written back before the
  parent's children follow; going writable, the children come first.
* The bitmaps that an image keeps can change only while the image can.

QEMU's counterpart: ``bdrv_reopen_set_read_only``, ``bdrv_reopen_prepare`` in ``block.c``.
"""

from __future__ import annotations

from blkxact.errors import QmpError

from .child import Child
from .drain import drained
from .driver_api import ChildRole
from .graph import Graph
from .node import BlockNode
from .permissions import ANY_WRITE, cumulative_permissions


async def set_read_only(graph: Graph, node: BlockNode, read_only: bool) -> None:
    """Reopen a node and the nodes that hold its data. Raises ``QmpError``, nothing changed."""
    if node.read_only == read_only:
        return
    holders = [child.node for child in node.children.values() if _holds_data(child)]
    async with drained([node]):
        if read_only:
            await _make_read_only(graph, node)
        for holder in holders:
            await set_read_only(graph, holder, read_only)
        if not read_only:
            await _make_writable(graph, node)


async def _make_read_only(graph: Graph, node: BlockNode) -> None:
    if cumulative_permissions(node)[0] & ANY_WRITE:
        raise QmpError(f"Read-only block node '{node.node_name}' cannot support read-write users")
    await node.flush()
    await node.store_bitmaps()
    await node.driver.deactivate_write()
    node.driver.read_only = True
    _guard_bitmaps(node)
    graph.refresh(node)


async def _make_writable(graph: Graph, node: BlockNode) -> None:
    node.driver.read_only = False
    try:
        graph.refresh(node)
        await node.driver.activate_write()
    except QmpError:
        node.driver.read_only = True
        graph.refresh(node)
        raise
    _guard_bitmaps(node)


def _guard_bitmaps(node: BlockNode) -> None:
    for bitmap in node.bitmaps.values():
        if bitmap.stored and not bitmap.inconsistent:
            bitmap.read_only = node.read_only


def _holds_data(child: Child) -> bool:
    """Return whether the child is the parent's own: reopened with it unless a user made it."""
    return not child.role & ChildRole.COW and not child.node.monitor_owned
