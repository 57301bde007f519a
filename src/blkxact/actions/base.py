"""What all actions on block nodes have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from blkxact.block.node import BlockNode
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.job.txn import JobTxn
from blkxact.qapi.common import QapiModel
from blkxact.transaction import Action


class BlockAction(Action):
    """An action with its arguments, an instance of ``model``, and the transaction it is in."""

    model: ClassVar[type[QapiModel]]
    """Its arguments, those of the plain command."""
    is_command: ClassVar[bool] = True
    """There is a command of the same name: a transaction of this action alone."""
    has_job: ClassVar[bool] = False
    """It starts a job, which can complete with others."""

    def __init__(self, layer: BlockLayer, txn: JobTxn, args: Any) -> None:
        self.layer = layer
        self.txn = txn
        self.args = args

    def __str__(self) -> str:
        """Name the action and what it is on."""
        subject = getattr(self.args, "node", None) or getattr(self.args, "device", None)
        bitmap = getattr(self.args, "name", None) or getattr(self.args, "target", None)
        return " ".join(str(word) for word in (self.kind, subject, bitmap) if word)

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the transaction runs.

        A name that means nothing yet is left out: ``prepare`` refuses it or finds it.
        """
        return ()

    def find_or_none(self, *names: str | None) -> Iterable[BlockNode]:
        """Yield the nodes that these device or node names mean now."""
        for name in names:
            if name is not None:
                try:
                    yield self.layer.find_node(name)
                except QmpError:
                    continue

    def check_completion_mode(self) -> None:
        """Raise ``QmpError`` where QEMU takes no completion mode but ``individual``.

        QEMU refuses ``grouped`` for every action without a job; ``deferred`` is ours and only says
        when bitmaps settle, so every action may be part of it.
        """
        if self.txn.policy.needs_jobs:
            raise QmpError(
                f"Action '{self.kind}' does not support transaction property "
                f"completion-mode = {self.txn.mode}"
            )
