"""All nodes of one emulator and the edges between them: every change of the graph is made here.

Invariants:

* A change is all or nothing: it is made, the permissions of everything below it are computed anew,
  and if they do not agree it is undone and the graph is as it was.
* Changes are synchronous, so no request sees half of one. Edges with requests under way are moved
  only inside a drained section.
* A node lives while an edge, a holder (``ref``) or the monitor wants it. One that nobody wants is
  closed soon after; ``settled`` waits for that.

QEMU's counterpart: the graph functions of ``block.c``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from blkxact.errors import QmpError
from blkxact.runtime.points import Points

from .child import Child, Parent
from .graph_change import (
    ROOT_ROLE,
    GraphChange,
    NewChild,
    chain_edges,
    changing,
    check_active,
    check_frozen,
    downwards,
    new_chain_edge,
    new_edge,
    refresh_limits_above,
    stage_active,
    stage_child,
)
from .losses import report_loss
from .names import MAX_NAME, NameGenerator, is_well_formed
from .node import BlockNode
from .types import ChildRole, Permission
from .yank import YankInstances

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap


class NamedBackend(Protocol):
    """What the graph needs to know of a ``BlockBackend``."""

    @property
    def node(self) -> BlockNode | None:
        """The medium."""


class Graph:
    """The nodes of one emulator, by name, and its named backends."""

    def __init__(self, rng: random.Random | None = None, points: Points | None = None) -> None:
        self.nodes: dict[str, BlockNode] = {}
        self.unlisted: dict[str, BlockNode] = {}
        """Nodes that are being opened apart: nobody else sees more of them than their names."""
        self.backends: dict[str, NamedBackend] = {}
        self._names = NameGenerator(rng or random.Random(0))  # noqa: S311 - names, not secrets
        self._new: list[BlockNode] = []
        """Nodes that maybe nobody has ever attached or held."""
        self.points = Points() if points is None else points
        self._closing: dict[BlockNode, asyncio.Task[None]] = {}
        """Nodes that nobody wants, each closed by a task of its own: none holds up another."""
        self.yank = YankInstances()
        self.lost_data = False
        """A node could not store all it had (writes, persistent bitmaps) when it was closed."""

    # Names

    def generate_name(self) -> str:
        """Return a name for a node that the user did not name."""
        return self._names.next(self._is_taken)

    def check_name(self, name: str) -> None:
        """Raise ``QmpError`` if a user may not give a new node this name."""
        if not is_well_formed(name):
            raise QmpError(f"Invalid node-name: '{name}'")
        if name in self.backends:
            raise QmpError(f"node-name={name} is conflicting with a device id")
        if self._is_taken(name):
            raise QmpError(f"Duplicate nodes with node-name='{name}'")
        if len(name) > MAX_NAME:
            raise QmpError("Node name too long")

    def _is_taken(self, name: str) -> bool:
        return name in self.nodes or name in self.unlisted

    def find(self, node_name: str) -> BlockNode | None:
        """Return the node of that name."""
        return self.nodes.get(node_name)

    def lookup(self, device: str | None, node_name: str | None) -> BlockNode:
        """Return the medium of a device or else the node of that name; raises ``QmpError``."""
        backend = self.backends.get(device) if device else None
        if backend is not None:
            if backend.node is None:
                raise QmpError(f"Device '{device}' has no medium")
            return backend.node
        node = self.nodes.get(node_name) if node_name else None
        if node is None or not node.is_open:
            raise QmpError(f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'")
        return node

    def find_bitmap(self, node_name: str, name: str) -> tuple[BlockNode, DirtyBitmap]:
        """Return a bitmap and its node; raises ``QmpError`` (``block_dirty_bitmap_lookup``)."""
        try:
            node = self.lookup(node_name, node_name)
        except QmpError:
            raise QmpError(f"Node '{node_name}' not found") from None
        bitmap = node.bitmaps.get(name)
        if bitmap is None:
            raise QmpError(f"Dirty bitmap '{name}' not found")
        return node, bitmap

    def add(self, node: BlockNode) -> None:
        """Enter a node under its name, which must be free or, in ``unlisted``, its own."""
        assert node.node_name not in self.nodes, node
        self.unlisted.pop(node.node_name, None)
        self.nodes[node.node_name] = node
        self._new.append(node)

    # Edges

    def attach(  # noqa: PLR0917 - the members of an edge, in their usual order
        self,
        parent: Parent,
        node: BlockNode,
        name: str = "root",
        role: ChildRole = ROOT_ROLE,
        perm: Permission = Permission.NONE,
        shared: Permission = Permission.ALL,
    ) -> Child:
        """Make ``parent`` a parent of ``node``.

        The masks are a root's; those of a parent that is a node are computed. Raises ``QmpError``
        for a cycle and for permissions that disagree.
        """
        with changing() as change:
            edge = new_edge(parent, node, name, role)
            check_active(node, perm)
            edge.set_permissions(perm, shared)
            change.link(edge)
            change.refresh([parent if isinstance(parent, BlockNode) else node])
        return edge

    def detach(self, edge: Child) -> None:
        """End the edge; a node that nobody wants any more is closed."""
        assert not edge.frozen, edge
        with changing() as change:
            change.unlink(edge)
        if edge.node.inherits_from is edge.parent:
            edge.node.inherits_from = None
        self._loosen(edge.node)
        self._consider(edge.node)

    def redirect(self, edge: Child, node: BlockNode) -> None:
        """Let the edge lead to another node. Raises ``QmpError`` with nothing changed."""
        old = edge.node
        assert old.is_idle(), old
        with changing() as change:
            change.move(edge, node)
            change.refresh([node, old])
        self._consider(old)

    def set_permissions(self, edge: Child, perm: Permission, shared: Permission) -> None:
        """Change what a root needs and allows. What only loosens never fails.

        Of an inactive node it gets that when the node is activated. Raises ``QmpError`` with
        nothing changed.
        """
        if edge.held_back is not None:
            edge.held_back = perm, shared
            return
        tightens = perm & ~edge.perm or edge.shared & ~shared
        try:
            with changing() as change:
                change.set_masks(edge, perm, shared)
                change.refresh([edge.node])
        except QmpError:
            if tightens:
                raise

    def refresh(self, node: BlockNode) -> None:
        """Compute the permissions below ``node`` anew, when its driver needs others than before."""
        with changing() as change:
            change.refresh([node])

    def set_active(self, nodes: Iterable[BlockNode], *, active: bool) -> None:
        """Let nodes, parents first, be active or not, and with them the masks of roots above them.

        What the drivers write before or read after it is up to ``blockdev.activity``. Raises
        ``QmpError`` with nothing changed.
        """
        with changing() as change:
            stage_active(change, nodes, active=active)

    def replace_node(self, old: BlockNode, new: BlockNode) -> None:
        """Move all edges to ``old`` over to ``new``, but those from below ``new``.

        A job's hold on the node stays. Raises ``QmpError`` with nothing changed.
        """
        with changing() as change:
            self._move_parents(change, old, new)
            change.refresh([new, old])
        self._consider(old)

    def insert_filter(self, node: BlockNode, above: BlockNode) -> None:
        """Put ``above``, a filter or an overlay, between ``node`` and its parents.

        ``above`` may have ``node`` as a child already. Raises ``QmpError`` with nothing changed.
        """
        with changing() as change:
            if above.below is None:
                change.link(new_chain_edge(above, node))
            assert above.below is node, above
            self._move_parents(change, node, above)
            change.refresh([above])

    def remove_filter(
        self, above: BlockNode, replaced: tuple[BlockNode, BlockNode] | None = None
    ) -> None:
        """Take a filter out: its parents get the node that it filters. The filter is closed.

        ``replaced``: an old node and a new one, to which all edges to the old one are moved before.
        """
        edge = above.chain_child
        assert edge is not None, above
        with changing() as change:
            if replaced is not None:
                self._move_parents(change, *replaced, None)
            check_frozen(edge)
            self._move_parents(change, above, edge.node, edge)
            change.unlink(edge)
            change.refresh([*(replaced or ()), edge.node, above])
        for node in (above, edge.node, *(replaced or ())):
            self._consider(node)

    def set_backing(self, node: BlockNode, backing: BlockNode | None) -> None:
        """Give ``node`` another backing file, or none. Raises ``QmpError``, nothing changed."""
        self.replace_children([(node, "file" if node.driver.is_filter else "backing", backing)])

    def replace_children(
        self, wanted: Sequence[NewChild], needing_others: Sequence[BlockNode] = ()
    ) -> None:
        """Give nodes another ``file`` or ``backing``, or no backing file: all of them or none.

        The drivers of ``needing_others`` need other permissions than before. The nodes have no
        requests under way. Raises ``QmpError`` with nothing changed.
        """
        touched = list(needing_others)
        with changing() as change:
            for parent, name, node in wanted:
                old = parent.children.get(name)
                touched += [parent, *([old.node] if old is not None else [])]
                stage_child(change, parent, name, node)
            change.refresh(touched)
        for parent, _, _ in wanted:
            refresh_limits_above(parent)
        for node in touched:
            self._consider(node)

    def _move_parents(
        self, change: GraphChange, old: BlockNode, new: BlockNode, keep: Child | None = None
    ) -> None:
        # A request under way would go past what is put in, or past what replaces its node.
        assert old.is_idle(), old
        below = set(downwards([new]))
        for edge in list(reversed(old.parents)):
            if edge is keep or edge.parent.stay_at_node or edge.parent in below:
                continue
            if edge.frozen:
                raise QmpError(f"Cannot change '{edge.name}' link to '{old.node_name}'")
            change.move(edge, new)

    def _loosen(self, node: BlockNode) -> None:
        """Compute permissions anew where a parent has gone: there is nothing to refuse."""
        try:
            self.refresh(node)
        except QmpError:
            # Another process may hold a lock that the old state did not disturb; all stays as
            # it is then, which is more than is needed.
            return

    # Links that must stay

    def freeze_chain(self, top: BlockNode, base: BlockNode | None) -> None:
        """Let no link between ``top`` and ``base`` change; raises ``QmpError``, none frozen."""
        edges = list(chain_edges(top, base))
        for edge in edges:
            check_frozen(edge)
        for edge in edges:
            if edge.node.never_freeze:
                raise QmpError(f"Cannot freeze '{edge.name}' link to '{edge.node.node_name}'")
        for edge in edges:
            edge.frozen = True

    def unfreeze_chain(self, top: BlockNode, base: BlockNode | None) -> None:
        """Take back ``freeze_chain``."""
        for edge in chain_edges(top, base):
            assert edge.frozen, edge
            edge.frozen = False

    # Lives

    def ref(self, node: BlockNode) -> BlockNode:
        """Hold the node; returns it."""
        node.refs += 1
        return node

    def unref(self, node: BlockNode) -> None:
        """Let go of the node; one that nobody wants any more is closed."""
        assert node.refs > 0, node
        node.refs -= 1
        self._consider(node)

    def _consider(self, node: BlockNode) -> None:
        """Close the node soon if nobody wants it."""
        if not (node.parents or node.refs or node in self._closing):
            self._closing[node] = asyncio.create_task(self._close_unwanted(node))

    def sweep(self) -> None:
        """Close the nodes that nobody ever attached or held.

        All others are closed when their last holder lets go.
        """
        new, self._new = self._new, []
        for node in new:
            self._consider(node)
            if not node.is_open and node.refs:  # it is being opened, and released without a word
                self._new.append(node)

    def tops(self) -> list[BlockNode]:
        """Return the open nodes that are below no other."""
        nodes = [node for node in self.nodes.values() if node.is_open]
        below = {edge.node for node in nodes for edge in node.children.values()}
        return [node for node in nodes if node not in below]

    def roots(self) -> list[Parent]:
        """Return the parents of nodes that are not nodes: backends, jobs, exports."""
        edges = (edge for node in self.nodes.values() for edge in node.parents)
        return [edge.parent for edge in edges if not isinstance(edge.parent, BlockNode)]

    def release_monitor_owned(self) -> None:
        """Let go of the nodes that ``blockdev-add`` made (the emulator ends)."""
        for node in self.nodes.values():
            if node.monitor_owned:
                node.monitor_owned = False
                self.unref(node)

    def release_all(self) -> None:
        """Let nobody but parents hold a node any more (the emulator ends)."""
        for node in self.nodes.values():
            node.refs = 0
            self._consider(node)

    async def settled(self) -> None:
        """Wait until every node that nobody wants is closed."""
        while self._closing:
            for closing in (await asyncio.wait(self._closing.values()))[0]:
                closing.result()  # a bug in closing is reported to whoever waits for it

    async def _close_unwanted(self, node: BlockNode) -> None:
        try:
            await node.idle()
            if not node.parents and not node.refs:
                await self._close(node)
        finally:
            del self._closing[node]

    async def _close(self, node: BlockNode) -> None:
        for nodes in (self.nodes, self.unlisted):  # nobody finds it by its name any more
            if nodes.get(node.node_name) is node:
                del nodes[node.node_name]
        if node.is_open:
            if node.driver.is_protocol:  # the flush must not wait for a server that is gone
                node.driver.cancel_in_flight()
            for step in (node.flush, partial(self._store_bitmaps, node), node.driver.close):
                try:
                    await step()
                except (OSError, QmpError) as error:
                    self.lost_data = True
                    report_loss(node.node_name, error, is_bottom=not node.children)
            node.is_open = False
        for edge in list(node.children.values()):
            self.detach(edge)

    async def _store_bitmaps(self, node: BlockNode) -> None:
        await self.points.reach("bitmap.store", node=node.node_name)
        await node.store_bitmaps(closing=True)
