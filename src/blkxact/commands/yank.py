"""Cutting connections to servers that do not answer, out of the order of other commands.

QEMU's counterpart: ``qapi/yank.json``; ``util/yank.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.yank import Connection
from blkxact.block_layer import BlockLayer
from blkxact.errors import ErrorClass, QmpError
from blkxact.qapi.common import NoArguments
from blkxact.qapi.yank import Yank, YankInstanceBlockNode

from .command import Command


def yank(layer: BlockLayer, args: Yank) -> None:
    """yank: all of the instances or, if one is not there, none."""
    found: list[Connection] = []
    for instance in args.instances:
        connections: list[Connection] = []
        if isinstance(instance, YankInstanceBlockNode):
            connections = layer.graph.yank.find(instance.node_name)
        if not connections:
            raise QmpError("Instance not found", ErrorClass.DEVICE_NOT_FOUND)
        found += connections
    for connection in found:
        connection.yank()


def query_yank(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-yank: the latest first, as in QEMU."""
    del args
    return [{"type": "block-node", "node-name": name} for name in layer.graph.yank.names()]


# Neither waits for the lock: whoever holds it may be what has to be freed.
COMMANDS: Final = [
    Command("query-yank", query_yank, allow_oob=True, locked=False, system=True),
    Command("yank", yank, Yank, allow_oob=True, locked=False, system=True),
]
