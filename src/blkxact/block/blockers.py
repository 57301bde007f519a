"""Operation blockers: what may not be done to a node now, and why.

Permissions say which requests parents send; blockers say which commands a node refuses while a job
uses it or while it is someone's backing file.

QEMU's counterpart: ``BlockOpType``, ``bdrv_op_block`` and so on in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from blkxact.errors import QmpError


class BlockOp(Enum):
    """BlockOpType: the operations that can be blocked."""

    BACKUP_SOURCE = auto()
    BACKUP_TARGET = auto()
    CHANGE = auto()
    COMMIT_SOURCE = auto()
    COMMIT_TARGET = auto()
    DATAPLANE = auto()
    DRIVE_DEL = auto()
    EJECT = auto()
    EXTERNAL_SNAPSHOT = auto()
    INTERNAL_SNAPSHOT = auto()
    INTERNAL_SNAPSHOT_DELETE = auto()
    MIRROR_SOURCE = auto()
    MIRROR_TARGET = auto()
    RESIZE = auto()
    STREAM = auto()
    REPLACE = auto()


BACKING_EXCEPTIONS = frozenset(
    {
        BlockOp.COMMIT_TARGET,
        BlockOp.STREAM,
        BlockOp.BACKUP_SOURCE,
        BlockOp.BACKUP_TARGET,
    }
)
"""What may still be done to a backing file."""


class Blockers(dict[BlockOp, list[str]]):
    """The blockers of one node: the reasons for each blocked operation, the latest first.

    A reason is counted: it was blocked as often as it must be unblocked.
    """

    def block(self, op: BlockOp, reason: str) -> None:
        """Refuse ``op`` until the same reason is taken back."""
        self.setdefault(op, []).insert(0, reason)

    def unblock(self, op: BlockOp, reason: str) -> None:
        """Take back one reason for refusing ``op``; one that is not there is ignored."""
        reasons = self.get(op, [])
        if reason in reasons:
            reasons.remove(reason)
        if not reasons:
            self.pop(op, None)

    def block_all(self, reason: str, except_: Iterable[BlockOp] = ()) -> None:
        """Refuse every operation but ``except_``."""
        allowed = frozenset(except_)
        for op in BlockOp:
            if op not in allowed:
                self.block(op, reason)

    def unblock_all(self, reason: str) -> None:
        """Take back the reason from every operation, once."""
        for op in BlockOp:
            self.unblock(op, reason)

    def is_blocked(self, op: BlockOp) -> bool:
        """Return whether there is a reason to refuse ``op``."""
        return op in self

    def check(self, op: BlockOp, name: str) -> None:
        """Raise ``QmpError`` if ``op`` is refused; ``name`` is the node's device or node name."""
        if op in self:
            raise QmpError(f"Node '{name}' is busy: {self[op][0]}")
