"""BlockLimitsInfo: how the requests of a node should be.

A node has the limits of the nodes that it keeps its data in, as far as they concern transfers and
memory, with the driver's own (``BlockDriver.own_limits``) above them. They say what is best; no
request is refused because of them.

QEMU's counterpart: bdrv_refresh_limits() in ``block/io.c``; ``qapi/block-core.json``
(BlockLimitsInfo).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from blkxact.block.node import BlockNode
from blkxact.block.types import ChildRole

Limits = dict[str, int]

IOV_MAX: Final = 1024
"""Most buffers of one system call."""
WITHOUT_CHILDREN: Final[Mapping[str, int]] = MappingProxyType(
    {"max-iov": IOV_MAX, "min-mem-alignment": 512, "opt-mem-alignment": mmap.PAGESIZE}
)
_DATA: Final = ChildRole.DATA | ChildRole.FILTERED | ChildRole.COW
_MERGED: Final[Mapping[str, Callable[[int, int], int]]] = {
    "discard-alignment": max,
    "opt-transfer": max,
    "max-transfer": min,
    "max-hw-transfer": min,
    "max-iov": min,
    "max-hw-iov": min,
    "min-mem-alignment": max,
    "opt-mem-alignment": max,
}
"""What a node has from its children, and which of several values."""


class LimitsFinder:
    """What one query has found out: the limits of each node are looked for once."""

    def __init__(self) -> None:
        self._known: dict[BlockNode, Limits] = {}

    def of(self, node: BlockNode) -> Limits:
        """Return BlockLimitsInfo of a node."""
        todo = [node]
        while todo:  # chains may be too long for a recursion
            unknown = [below for below in _data_nodes(todo[-1]) if below not in self._known]
            if unknown:
                todo += unknown
            else:
                each = todo.pop()
                self._known[each] = self._merged(each)
        return self._known[node]

    def _merged(self, node: BlockNode) -> Limits:
        limits: dict[str, int] = {}
        for below in _data_nodes(node):
            for name, value in self._known[below].items():
                if name in _MERGED:
                    limits[name] = _MERGED[name](limits.get(name, value), value)
        return {"request-alignment": 1, **(limits or WITHOUT_CHILDREN), **node.driver.own_limits}


def _data_nodes(node: BlockNode) -> Iterator[BlockNode]:
    return (child.node for child in node.children.values() if child.role & _DATA)
