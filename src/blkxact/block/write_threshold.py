"""An offset of a node that is worth an event once a write goes beyond it.

Management programs enlarge a disk's storage when they hear it.

QEMU's counterpart: ``block/write-threshold.c``.
"""

from __future__ import annotations

from .corruption import Emit, Named


class WriteThreshold:
    """The threshold of a node until it is passed; ``offset`` is in bytes."""

    def __init__(self, offset: int, emit: Emit) -> None:
        self.offset = offset
        self._emit = emit

    def passed(self, node: Named, end: int) -> bool:
        """Report a write up to ``end`` if it goes beyond; the threshold is to be forgotten then."""
        exceeded = end - self.offset
        if exceeded <= 0:
            return False
        data = {
            "node-name": node.node_name,
            "amount-exceeded": exceeded,
            "write-threshold": self.offset,
        }
        self._emit("BLOCK_WRITE_THRESHOLD", data)
        return True
