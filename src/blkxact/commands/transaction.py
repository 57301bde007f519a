"""``transaction``, the commands that are transactions of one, and ``query-transactions``.

QEMU's counterpart: ``qapi/transaction.json``; ``blockdev_do_action`` in ``blockdev.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from blkxact.actions import ACTIONS, Transaction, run_actions
from blkxact.block_layer import BlockLayer
from blkxact.enums import ActionCompletionMode
from blkxact.qapi.common import NoArguments

from .command import Command


async def transaction(layer: BlockLayer, args: Any) -> None:
    """Run the actions as one."""
    requests = [(action.type, action.data) for action in args.actions]
    properties = args.properties
    if properties is None:
        await run_actions(layer, requests)
        return
    await run_actions(layer, requests, properties.completion_mode, properties.id)


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


COMMANDS: Final = [
    Command("transaction", transaction, Transaction),
    Command("query-transactions", query_transactions),
    *(
        Command(kind, _plain(kind), action.model)
        for kind, action in ACTIONS.items()
        if action.is_command
    ),
]
