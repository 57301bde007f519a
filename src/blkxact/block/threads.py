"""Which iothreads use a tree of nodes: all of a tree is in one, as far as clients can see.

Everything here runs on one event loop; what QEMU refuses for the sake of its threads is refused.

QEMU's counterpart: ``bdrv_try_change_aio_context``, ``blk_root_change_aio_ctx``.
"""

from __future__ import annotations

from collections.abc import Iterable

from blkxact.errors import QmpError

from .node import BlockNode


def check_threads(nodes: Iterable[BlockNode], *more: str | None) -> None:
    """Raise ``QmpError`` if the users of the trees of ``nodes`` and ``more`` are in two threads."""
    threads = {thread for thread in more if thread}
    found = set(nodes)
    todo = list(found)
    while todo:
        node = todo.pop()
        near = [child.node for child in node.children.values()]
        for edge in node.parents:
            if isinstance(edge.parent, BlockNode):
                near.append(edge.parent)
            elif edge.parent.iothread:
                threads.add(edge.parent.iothread)
        todo += set(near) - found
        found.update(near)
    if len(threads) > 1:
        raise QmpError("Cannot change iothread of active block backend")
