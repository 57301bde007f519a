"""``blockdev-reopen``: other options for nodes that are in use.

What can change is which nodes are the ``backing`` of a node and the ``file`` of one without tables
of its own (filters, raw), if they are named: so filters are put in and taken out. And whether a
node is read-only, with the nodes that hold its data, and what its driver can change
(``reopenable``). Any other change is refused by the name of the option.

Law: all nodes of one command are reopened, or none.

QEMU's counterpart: qmp_blockdev_reopen() in ``blockdev.c``, bdrv_reopen_multiple() in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from blkxact.actions.backup import without_implicit
from blkxact.block.drain import drained
from blkxact.block.driver_api import ChildRole
from blkxact.block.node import BlockNode
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlockdevReopen

from .command import Command

NewChild = tuple[BlockNode, str, BlockNode | None]
"""A node, ``file`` or ``backing``, and the node that is to be that."""

_CHILDREN: Final = ("file", "backing")
_MAY_DIFFER: Final = frozenset({"node-name", "driver", "read-only", "auto-read-only"})


async def blockdev_reopen(layer: BlockLayer, args: BlockdevReopen) -> None:
    """blockdev-reopen."""
    wanted: list[tuple[BlockNode, dict[str, Any]]] = []
    children: list[NewChild] = []
    for one in args.options:
        members = one.to_wire()
        node = _find(layer, members)
        check_unchanged(node, members)
        children += _new_children(layer, node, members)
        wanted.append((node, members))
    old_children = await _replace_children(layer, children)
    changed: list[tuple[BlockNode, Mapping[str, Any], bool]] = []
    try:
        for node, members in wanted:
            changed.append((node, node.options, node.read_only))
            await _change(layer, node, members, read_only=bool(members.get("read-only")))
    except QmpError:
        for node, was_options, was_read_only in reversed(changed):
            await _change(layer, node, was_options, read_only=was_read_only)
        await _replace_children(layer, old_children)
        raise
    await layer.close_unused_nodes()


def _new_children(
    layer: BlockLayer, node: BlockNode, members: Mapping[str, Any]
) -> Iterator[NewChild]:
    """Yield the named children that are not the node's yet; raises ``QmpError``."""
    for name in _CHILDREN:
        value = members.get(name)
        if name not in members or isinstance(value, Mapping):
            continue
        new = None if value is None else layer.graph.lookup(None, value)
        edge = node.children.get(name)
        old = edge.node if edge is not None else None
        if new is old or (old is not None and without_implicit(old) is new):
            continue
        if edge is not None and edge.role & ChildRole.METADATA:
            # What the format has cached of its tables would go into the other file.
            raise QmpError(f"Cannot change the option '{name}'")
        if old is not None and old.implicit:
            raise QmpError(f"Cannot replace implicit {name} child of {node.node_name}")
        if old is None and node.driver.is_filter:
            raise QmpError(
                f"'{node.node_name}' is a {node.driver.format_name} filter node "
                f"that does not support a {name} child"
            )
        yield node, name, new


async def _replace_children(layer: BlockLayer, children: list[NewChild]) -> list[NewChild]:
    """Put other children in, all or none; return what undoes it. Raises ``QmpError``."""
    old: list[NewChild] = []
    drain: list[BlockNode] = []
    for node, name, new in children:
        edge = node.children.get(name)
        old.append((node, name, edge.node if edge is not None else None))
        drain += [one for one in (node, old[-1][2], new) if one is not None]
    if not children:
        return old
    async with drained(drain):
        layer.graph.replace_children(children)
    for node, name, new in children:
        node.options = dict(node.options) | {name: new.node_name if new is not None else None}
        if name == "backing":
            node.backing_opened_as = None
    return old


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
        if not path and name in _CHILDREN and not isinstance(value, Mapping):
            same = True  # a node that is named may be another
        elif name == "backing" and value is None:
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
