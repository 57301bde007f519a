"""The action that makes a transaction fail, for tests of clients."""

from __future__ import annotations

from blkxact.errors import QmpError
from blkxact.qapi import transaction

from .base import BlockAction


class Abort(BlockAction):
    """``abort`` (Abort)."""

    kind = "abort"
    model = transaction.Abort
    is_command = False

    async def prepare(self) -> None:
        """Fail."""
        raise QmpError("Transaction aborted using Abort action")
