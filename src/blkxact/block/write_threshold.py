"""An offset of a node that is worth an event once a write goes beyond it.

Management programs enlarge a disk's storage when they hear it.

QEMU's counterpart: ``block/write-threshold.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .corruption import Emit

if TYPE_CHECKING:
    from .node import BlockNode


class WriteThreshold:
    """The threshold of a node, which it has until it is passed; ``offset`` is in bytes."""

    def __init__(self, offset: int, emit: Emit) -> None:
        self.offset = offset
        self._emit = emit

    def check(self, node: BlockNode, end: int) -> None:
        """Report a write up to ``end``, or what it is aligned to, if it is the first beyond."""
        end += -end % node.driver.request_alignment
        if end <= self.offset:
            return
        node.write_threshold = None
        data = {
            "node-name": node.node_name,
            "amount-exceeded": end - self.offset,
            "write-threshold": self.offset,
        }
        self._emit("BLOCK_WRITE_THRESHOLD", data)
