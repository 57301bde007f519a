"""The action that makes a transaction fail, for tests of clients."""

from __future__ import annotations

from blkxact.errors import QmpError

from .base import BlockAction


class Abort(BlockAction):
    """``abort`` (Abort)."""

    kind = "abort"

    async def prepare(self) -> None:
        """Fail."""
        raise QmpError("Transaction aborted using Abort action")
