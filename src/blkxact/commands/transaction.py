"""``transaction``, the commands that are transactions of one, and ``query-transactions``.

QEMU's counterpart: ``qapi/transaction.json``; ``blockdev_do_action`` in ``blockdev.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from blkxact.actions import run_actions
from blkxact.block_layer import BlockLayer
from blkxact.enums import ActionCompletionMode
from blkxact.qapi import block_core
from blkxact.qapi.common import NoArguments, QapiModel
from blkxact.qapi.transaction import Transaction

from .command import Command


async def transaction(layer: BlockLayer, args: Transaction) -> None:
    """Run the actions as one."""
    requests = [(action.type, action.data) for action in args.actions]
    properties = args.properties
    if properties is None:
        await run_actions(layer, requests)
        return
    mode = properties.completion_mode
    await run_actions(
        layer,
        requests,
        mode,
        properties.id,
    )


def query_transactions(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """Return the transactions that are not over, with the references they hold."""
    del args
    return [
        txn.report() | {"references": txn.references, "holders": list(txn.holders)}
        for txn in layer.transactions
    ]


def _plain(kind: str) -> Callable[[BlockLayer, Any], Coroutine[Any, Any, None]]:
    """Return the handler of a command that is a transaction of one action."""

    async def handler(layer: BlockLayer, args: Any) -> None:
        await run_actions(layer, [(kind, args)], ActionCompletionMode.INDIVIDUAL)

    return handler


_ACTION_COMMANDS: Final[dict[str, type[QapiModel]]] = {
    "block-dirty-bitmap-add": block_core.BlockDirtyBitmapAdd,
    "block-dirty-bitmap-remove": block_core.BlockDirtyBitmap,
    "block-dirty-bitmap-clear": block_core.BlockDirtyBitmap,
    "block-dirty-bitmap-enable": block_core.BlockDirtyBitmap,
    "block-dirty-bitmap-disable": block_core.BlockDirtyBitmap,
    "block-dirty-bitmap-merge": block_core.BlockDirtyBitmapMerge,
    "blockdev-backup": block_core.BlockdevBackup,
    "blockdev-snapshot": block_core.BlockdevSnapshot,
    "blockdev-snapshot-internal-sync": block_core.BlockdevSnapshotInternal,
    "blockdev-snapshot-sync": block_core.BlockdevSnapshotSync,
    "drive-backup": block_core.DriveBackup,
}

COMMANDS: Final = [
    Command("transaction", transaction, Transaction),
    Command("query-transactions", query_transactions),
    *(Command(kind, _plain(kind), model) for kind, model in _ACTION_COMMANDS.items()),
]
