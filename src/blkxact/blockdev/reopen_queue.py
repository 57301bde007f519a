"""Which nodes a reopen reaches, and with which options.

A child that was defined inside its parent's options (``inherits_from``) is reopened with its
parent: with the options that stand there for it, or with its old ones where the parent's options
only name it. A child that was made by itself is reopened by itself.

QEMU's counterpart: ``bdrv_reopen_queue_child`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from blkxact.block.node import BlockNode
from blkxact.block.node_options import MEMBERS, NodeOptions, inherited_options
from blkxact.block.types import ChildRole
from blkxact.drivers.driver_options import driver_options
from blkxact.drivers.image_options import merged
from blkxact.qmp.qdict import flattened
from blkxact.runtime.record import Record, made


class Reopening(Record):
    """One node that is reopened (BDRVReopenState)."""

    node: BlockNode
    own: dict[str, Any]
    """The options given to it, as BlockdevOptions; not those of children reopened with it."""
    options: dict[str, Any]
    """Those, and what it inherits, by their flat names."""
    common: NodeOptions
    backing_missing: bool
    take: Callable[[], None] = made(factory=lambda: _nothing)
    """Lets the driver take its new options."""

    def driver_options(self) -> Any:
        """Return what the driver would be opened with; raises ``QmpError``."""
        children = {name: edge.node.node_name for name, edge in self.node.children.items()}
        not_own = {"driver", "backing", *MEMBERS, *children}
        members = {name: value for name, value in self.own.items() if name not in not_own}
        return driver_options(type(self.node.driver), members, children).options

    @property
    def turns_read_only(self) -> bool:
        """Whether the node could be written and will not be any more."""
        return self.common.read_only and not self.node.read_only

    @property
    def turns_writable(self) -> bool:
        """Whether the node will be writable, and is not yet."""
        return self.node.read_only and not self.common.read_only


class ReopenQueue:
    """All nodes of one reopen, parents before the children that are reopened with them."""

    def __init__(self) -> None:
        self.entries: dict[BlockNode, Reopening] = {}

    def add(self, node: BlockNode, members: Mapping[str, Any], *, keep_old: bool = False) -> None:
        """Reopen a node with these BlockdevOptions.

        With ``keep_old`` options that are left out stay; otherwise they get their defaults.
        """
        self._add(node, members, None, ChildRole.PRIMARY, keep_old=keep_old)

    def _add(
        self,
        node: BlockNode,
        members: Mapping[str, Any],
        parent: Reopening | None,
        role: ChildRole,
        *,
        keep_old: bool,
    ) -> None:
        known = self.entries.get(node)
        if known is not None:
            members = merged(known.own, members)
        elif keep_old:
            members = merged(node.options, members)
        own = dict(members)
        backing_missing = not keep_old and not _defines(own, "backing")
        children = list(_take_children(node, own, keep_old=keep_old))
        options = flattened(own)
        if parent is not None:
            options = inherited_options(parent.options, role) | options
        if keep_old:
            options = current_options(node) | options
        entry = Reopening(
            node,
            own,
            options,
            NodeOptions.read(options).reopened(discard=node.discard),
            backing_missing,
        )
        self.entries[node] = entry
        for child, child_members, child_role, child_keep_old in children:
            self._add(child, child_members, entry, child_role, keep_old=child_keep_old)


def current_options(node: BlockNode) -> dict[str, Any]:
    """Return the options that the node has now, by their flat names; no children among them."""
    return {**node.common.given, **flattened(node.options)}


def _defines(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    return name in members and (not isinstance(value, Mapping) or "driver" in value)


def _take_children(
    node: BlockNode, own: dict[str, Any], *, keep_old: bool
) -> list[tuple[BlockNode, Mapping[str, Any], ChildRole, bool]]:
    """Take the options of children that are reopened with ``node`` out of ``own``.

    Returns for each its options, its role, and whether it keeps those that are left out.
    """
    found: list[tuple[BlockNode, Mapping[str, Any], ChildRole, bool]] = []
    for name, edge in node.children.items():
        child = edge.node
        if child.inherits_from is not node:
            continue
        value = own.get(name, {})
        if isinstance(value, Mapping):
            own.pop(name, None)
            found.append((child, value, edge.role, keep_old))
        elif value == child.node_name:
            found.append((child, {}, edge.role, True))
    return found


def _nothing() -> None:
    """Take no options: the driver has none that change."""
