"""Which iothreads use a tree of nodes: all of a tree is in one, as far as clients can see.

Everything here runs on one event loop; what QEMU refuses for the sake of its threads is refused.

QEMU's counterpart: ``bdrv_try_change_aio_context``, ``blk_root_change_aio_ctx``.
"""

from __future__ import annotations

from collections.abc import Iterable

from blkxact.errors import QmpError

from .backend import BlockBackend
from .child import Parent
from .node import BlockNode


def check_threads(nodes: Iterable[BlockNode], *more: str | None) -> None:
    """Raise ``QmpError`` if the users of the trees of ``nodes`` and ``more`` are in two threads."""
    threads = {thread for thread in more if thread}
    threads.update(root.iothread for root in _roots(nodes) if root.iothread)
    if len(threads) > 1:
        raise _in_use()


def check_move(node: BlockNode, thread: str | None) -> None:
    """Raise ``QmpError`` if a device keeps the tree of a node from moving to an iothread."""
    for root in _roots([node]):
        if isinstance(root, BlockBackend) and root.qdev_path and root.iothread != thread:
            raise _in_use()


def _roots(nodes: Iterable[BlockNode]) -> set[Parent]:
    """Return all roots above the trees of nodes."""
    roots: set[Parent] = set()
    found = set(nodes)
    todo = list(found)
    while todo:
        node = todo.pop()
        near = [child.node for child in node.children.values()]
        for edge in node.parents:
            if isinstance(edge.parent, BlockNode):
                near.append(edge.parent)
            else:
                roots.add(edge.parent)
        todo += set(near) - found
        found.update(near)
    return roots


def _in_use() -> QmpError:
    return QmpError("Cannot change iothread of active block backend")
