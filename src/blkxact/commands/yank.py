"""Cutting connections to servers that do not answer, out of the order of other commands.

QEMU's counterpart: ``qapi/yank.json``; ``util/yank.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.yank import Connection
from blkxact.block_layer import BlockLayer
from blkxact.errors import ErrorClass, QmpError
from blkxact.qapi.common import NoArguments
from blkxact.qapi.yank import Yank, YankInstanceBlockNode, YankInstanceChardev

from .command import Command

_SOCKETS: Final = ("fd:", "tcp:", "unix:")
"""How the filenames of such chardevs begin."""


def yank(layer: BlockLayer, args: Yank) -> None:
    """yank: all of the instances or, if one is not there, none. Clients of monitors stay."""
    found: list[Connection] = []
    for instance in args.instances:
        connections: list[Connection] = []
        if isinstance(instance, YankInstanceBlockNode):
            connections = layer.graph.yank.find(instance.node_name)
        elif isinstance(instance, YankInstanceChardev) and instance.id in _chardevs(layer):
            continue
        if not connections:
            raise QmpError("Instance not found", ErrorClass.DEVICE_NOT_FOUND)
        found += connections
    for connection in found:
        connection.yank()


def query_yank(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-yank: the latest first, as in QEMU."""
    del args
    nodes = [{"type": "block-node", "node-name": name} for name in layer.graph.yank.names()]
    return [*nodes, *({"type": "chardev", "id": label} for label in _chardevs(layer))]


def _chardevs(layer: BlockLayer) -> list[str]:
    """Return the labels of the chardevs that are sockets, the latest first."""
    return [each["label"] for each in layer.chardevs() if each["filename"].startswith(_SOCKETS)]


# Neither waits for the lock: whoever holds it may be what has to be freed.
COMMANDS: Final = [
    Command("query-yank", query_yank, allow_oob=True, locked=False, system=True),
    Command("yank", yank, Yank, allow_oob=True, locked=False, system=True),
]
