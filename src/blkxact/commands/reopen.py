"""``blockdev-reopen``: other options for nodes that are in use.

What can change is whether a node is read-only, with the nodes that hold its data, and what its
driver can change (``reopenable``). Any other change is refused by the name of the option; children
and backing files stay what they are.

Law: all nodes of one command are reopened, or none.

QEMU's counterpart: qmp_blockdev_reopen() in ``blockdev.c``, bdrv_reopen_multiple() in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.block.drain import drained
from blkxact.block.node import BlockNode
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlockdevReopen

from .command import Command

_MAY_DIFFER: Final = frozenset({"node-name", "driver", "read-only", "auto-read-only"})


async def blockdev_reopen(layer: BlockLayer, args: BlockdevReopen) -> None:
    """blockdev-reopen."""
    changed: list[tuple[BlockNode, Mapping[str, Any], bool]] = []
    try:
        for options in args.options:
            members = options.to_wire()
            node = _find(layer, members)
            check_unchanged(node, members)
            changed.append((node, node.options, node.read_only))
            await _change(layer, node, members, read_only=bool(members.get("read-only")))
    except QmpError:
        for node, was_options, was_read_only in reversed(changed):
            await _change(layer, node, was_options, read_only=was_read_only)
        raise


async def _change(
    layer: BlockLayer, node: BlockNode, members: Mapping[str, Any], *, read_only: bool
) -> None:
    changes = {name: members[name] for name in node.driver.reopenable & members.keys()}
    if changes:
        async with drained([node]):
            node.driver.reopen(changes)
        node.options = {**node.options, **changes}
    await layer.blockdev.set_read_only(node, read_only=read_only)


def _find(layer: BlockLayer, members: Mapping[str, Any]) -> BlockNode:
    name = members.get("node-name")
    if name is None:
        raise QmpError("node-name not specified")
    node = layer.graph.find(name)
    if node is None:
        raise QmpError(f"Failed to find node with node-name='{name}'")
    return node


def check_unchanged(node: BlockNode, members: Mapping[str, Any], path: str = "") -> None:
    """Raise ``QmpError`` naming the first option that the node does not have like that."""
    if members.get("driver", node.driver.format_name) != node.driver.format_name:
        raise QmpError(f"Cannot change the option '{path}driver'")
    for name, value in members.items():
        child = node.children.get(name)
        if name == "backing" and value is None:
            same = child is None
        elif child is not None and isinstance(value, str):
            same = child.node.node_name == value
        elif child is not None and isinstance(value, Mapping):
            check_unchanged(child.node, value, f"{path}{name}.")
            same = True
        else:
            may_differ = _MAY_DIFFER if path else _MAY_DIFFER | node.driver.reopenable
            same = name in may_differ or node.options.get(name, value) == value
        if not same:
            raise QmpError(f"Cannot change the option '{path}{name}'")
    for name in node.driver.strong_options:
        if node.options.get(name) is not None and name not in members:
            raise QmpError(f"Cannot change the option '{path}{name}'")


COMMANDS: Final = [Command("blockdev-reopen", blockdev_reopen, BlockdevReopen)]
