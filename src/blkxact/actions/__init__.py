"""The actions of a transaction, and the one way in which all of them are run.

A verb that may be part of a transaction is written once, as an action; the plain command is a
transaction of one. To add an action: its arguments in ``qapi/block_core.py``, its class in this
folder, which says its kind and its arguments, its line in ``ACTIONS``, and its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from blkxact.block.drain import drained
from blkxact.block_layer import BlockLayer
from blkxact.enums import ActionCompletionMode
from blkxact.qapi.transaction import transaction_model
from blkxact.qapi.versions import COMPLETION_MODE_FIRST, behaves
from blkxact.transaction import run_transaction

from .abort import Abort
from .backup import BlockdevBackupAction, DriveBackupAction
from .base import BlockAction
from .bitmap import BitmapAdd, BitmapClear, BitmapDisable, BitmapEnable, BitmapMerge, BitmapRemove
from .internal_snapshot import BlockdevSnapshotInternalAction
from .snapshot import BlockdevSnapshotAction, BlockdevSnapshotSyncAction

ACTIONS: Final[dict[str, type[BlockAction]]] = {
    action.kind: action
    for action in (
        Abort,
        BitmapAdd,
        BitmapClear,
        BitmapDisable,
        BitmapEnable,
        BitmapMerge,
        BitmapRemove,
        BlockdevBackupAction,
        BlockdevSnapshotAction,
        BlockdevSnapshotInternalAction,
        BlockdevSnapshotSyncAction,
        DriveBackupAction,
    )
}

Transaction: Final = transaction_model({kind: one.model for kind, one in ACTIONS.items()})
"""The arguments of ``transaction``."""

_LAUNCH: Final = "launch"


async def run_actions(
    layer: BlockLayer,
    requests: Sequence[tuple[str, Any]],
    mode: ActionCompletionMode | None = None,
    txn_id: str | None = None,
) -> None:
    """Run ``(kind, arguments)`` pairs as one transaction.

    ``arguments`` are the validated model of the kind. ``mode`` None means the server's default.
    Raises the ``QmpError`` of the first action that cannot be done; nothing has changed then.
    """
    txn = layer.begin_transaction(mode, txn_id)
    txn.ref(_LAUNCH)
    try:
        actions = [ACTIONS[kind](layer, txn, args) for kind, args in requests]
        if behaves(COMPLETION_MODE_FIRST, layer.release):
            for action in actions:
                if not action.has_job:
                    action.check_completion_mode()
        held = [node for action in actions for node in action.nodes()]
        async with drained(held):
            await run_transaction(actions, layer.trace, layer.points)
            txn.launched = True
            for action in actions:
                txn.on_complete(action.complete)
    finally:
        txn.unref(_LAUNCH)
        await layer.close_unused_nodes()
