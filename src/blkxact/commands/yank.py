"""Cutting connections to servers that do not answer, out of the order of other commands.

QEMU's counterpart: ``qapi/yank.json``; ``util/yank.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.driver_api import BlockDriver
from blkxact.block_layer import BlockLayer
from blkxact.errors import ErrorClass, QmpError
from blkxact.qapi.common import NoArguments
from blkxact.qapi.yank import Yank, YankInstanceBlockNode

from .command import Command


def yank(layer: BlockLayer, args: Yank) -> None:
    """yank: all of the instances or, if one is not there, none."""
    drivers = []
    for instance in args.instances:
        driver = None
        if isinstance(instance, YankInstanceBlockNode):
            driver = _yankable(layer).get(instance.node_name)
        if driver is None:
            raise QmpError("Instance not found", ErrorClass.DEVICE_NOT_FOUND)
        drivers.append(driver)
    for driver in drivers:
        driver.yank()


def query_yank(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-yank: the latest first, as in QEMU."""
    del args
    return [{"type": "block-node", "node-name": name} for name in reversed(_yankable(layer))]


def _yankable(layer: BlockLayer) -> dict[str, BlockDriver]:
    nodes = layer.graph.nodes.values()
    return {node.node_name: node.driver for node in nodes if node.is_open and node.driver.can_yank}


COMMANDS: Final = [
    Command("query-yank", query_yank, allow_oob=True),
    Command("yank", yank, Yank, allow_oob=True),
]
