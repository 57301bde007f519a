"""An event when a write to a node goes past an offset.

Management programs enlarge a disk's storage when they receive it.

QEMU's counterpart: ``block/write-threshold.c``.
"""

from __future__ import annotations

from .corruption import Emit, Named


class WriteThreshold:
    """The threshold of a node; ``offset`` is in bytes, and 0 once it was passed."""

    def __init__(self, offset: int, emit: Emit) -> None:
        self.offset = offset
        self._emit = emit

    def check(self, node: Named, end: int) -> None:
        """Report a write up to ``end`` if it goes beyond the threshold; then there is none."""
        if not self.offset or end <= self.offset:
            return
        data = {
            "node-name": node.node_name,
            "amount-exceeded": end - self.offset,
            "write-threshold": self.offset,
        }
        self.offset = 0
        self._emit("BLOCK_WRITE_THRESHOLD", data)
