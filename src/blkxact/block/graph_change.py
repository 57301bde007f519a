"""One change of the graph: made at once, checked, and then kept or undone as a whole.

QEMU's counterpart: the ``Transaction`` objects of ``block.c``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from blkxact.errors import QmpError

from .blockers import BACKING_EXCEPTIONS
from .child import Child, Parent
from .drain import follow_edges
from .driver_api import BlockDriver
from .node import BlockNode
from .permissions import (
    check_node,
    child_masks,
    cumulative_permissions,
    permission_names,
)
from .types import ChildRole, Permission

ROOT_ROLE = ChildRole.FILTERED | ChildRole.PRIMARY

NewChild = tuple[BlockNode, str, BlockNode | None]
"""A node, ``file`` or ``backing``, and the node that is to be that."""


class GraphChange:
    """One change under way: what to undo if it fails, what to finish if it stands."""

    def __init__(self) -> None:
        self._old_nodes: dict[Child, BlockNode | None] = {}
        """Edges that lead, or led in between, to another node: to which they led before."""
        self._touched: dict[BlockNode, None] = {}
        """Nodes whose parents are others, or need something else, than at the last ``refresh``."""
        self._undo: list[Callable[[], object]] = []
        self._finish: list[Callable[[], None]] = []

    def link(self, edge: Child) -> None:
        """Enter the edge into its node, and into its parent if that is a node."""
        _link(edge)
        self._touched[edge.node] = None
        self._old_nodes.setdefault(edge, None)
        self._undo.append(partial(_unlink, edge))

    def unlink(self, edge: Child) -> None:
        """Take the edge out of both its ends."""
        place = _unlink(edge)
        self._touched[edge.node] = None
        self._old_nodes.setdefault(edge, edge.node)
        self._undo.append(lambda: _link(edge, place))

    def move(self, edge: Child, node: BlockNode) -> None:
        """Let the edge lead to ``node``."""
        old, place = edge.node, _leave(edge)
        edge.node = node
        _arrive(edge)
        self._touched.update({old: None, node: None})
        self._old_nodes.setdefault(edge, old)

        def undo() -> None:
            _leave(edge)
            edge.node = old
            _arrive(edge, place)

        self._undo.append(undo)

    def set_inherits_from(self, node: BlockNode, parent: BlockNode | None) -> None:
        """Change in whose options the node counts as defined."""
        old = node.inherits_from
        node.inherits_from = parent

        def undo() -> None:
            node.inherits_from = old

        self._undo.append(undo)

    def set_inactive(self, node: BlockNode, inactive: bool) -> None:
        """Let the node be inactive or active."""
        driver = node.driver
        old, driver.inactive = driver.inactive, inactive
        self._undo.append(partial(setattr, driver, "inactive", old))

    def hold_back(self, edge: Child) -> None:
        """Take the masks of a root from it until ``give_back``; it must bear that."""
        old, edge.held_back = edge.held_back, edge.held_back or (edge.perm, edge.shared)
        self._undo.append(partial(setattr, edge, "held_back", old))
        self.set_masks(edge, Permission.NONE, Permission.ALL)

    def give_back(self, edge: Child) -> None:
        """Give a root the masks again that were held back."""
        if edge.held_back is not None:
            old, edge.held_back = edge.held_back, None
            self._undo.append(partial(setattr, edge, "held_back", old))
            self.set_masks(edge, *old)

    def set_masks(self, edge: Child, perm: Permission, shared: Permission) -> None:
        """Change the masks of the edge, without a check."""
        old = edge.perm, edge.shared
        if old == (perm, shared):
            return
        self._touched[edge.node] = None
        edge.node.parents.set_permissions(edge, perm, shared)
        self._undo.append(lambda: edge.node.parents.set_permissions(edge, *old))

    def refresh(self, tops: Iterable[BlockNode]) -> None:
        """Compute all permissions below ``tops`` anew; raises ``QmpError`` where they disagree.

        A node whose parents are the same and need the same as before is passed over, so the cost
        is that of what changes and not of all that is below.
        """
        self._touched.update(dict.fromkeys(tops))
        while self._touched:
            for node in _parents_first(self._touched):
                if node in self._touched:
                    del self._touched[node]
                    self._refresh(node)

    def _refresh(self, node: BlockNode) -> None:
        perm, shared = cumulative_permissions(node)
        check_node(node, perm, shared)
        if node.is_open:
            self._take(node.driver, node.held, perm, shared)
            self._hold(node, perm, shared)
        for name, edge in node.children.items():
            self.set_masks(edge, *child_masks(node, name, edge.role, perm, shared))

    def _take(
        self,
        driver: BlockDriver,
        held: tuple[Permission, Permission],
        perm: Permission,
        shared: Permission,
    ) -> None:
        """Take the locks of the old and the new masks together; one of them remains in the end."""
        if held == (perm, shared):
            return
        old_perm, old_shared = held
        driver.apply_permissions(old_perm | perm, old_shared & shared)
        self._undo.append(lambda: driver.apply_permissions(old_perm, old_shared))
        self._finish.append(lambda: driver.apply_permissions(perm, shared))

    def _hold(self, node: BlockNode, perm: Permission, shared: Permission) -> None:
        old = node.held
        node.held = perm, shared

        def undo() -> None:
            node.held = old

        self._undo.append(undo)

    def undo(self) -> None:
        """Take everything back, the latest first."""
        for step in reversed(self._undo):
            step()

    def finish(self) -> None:
        """Let the change stand."""
        for step in self._finish:
            step()
        follow_edges(self._old_nodes)


@contextmanager
def changing() -> Iterator[GraphChange]:
    """Make a change that stands unless an error is raised, which undoes it."""
    change = GraphChange()
    try:
        yield change
    except BaseException:
        change.undo()
        raise
    change.finish()


@contextmanager
def trial() -> Iterator[GraphChange]:
    """Make a change to see whether it could be made; it is undone in every case."""
    change = GraphChange()
    try:
        yield change
    finally:
        change.undo()


def new_edge(parent: Parent, node: BlockNode, name: str, role: ChildRole) -> Child:
    """Return an edge that is not entered at its ends yet; raises ``QmpError`` for a cycle."""
    if isinstance(parent, BlockNode):
        _check_cycle(parent, node, name)
        check_active_parent(parent, node, name)
        assert name not in parent.children, parent
    return Child(parent, node, name, role)


def new_chain_edge(above: BlockNode, node: BlockNode) -> Child:
    """Return a new edge by which ``above`` filters or overlays ``node``."""
    if above.driver.is_filter:
        return new_edge(above, node, "file", ROOT_ROLE)
    return new_edge(above, node, "backing", ChildRole.COW)


def stage_child(change: GraphChange, parent: BlockNode, name: str, node: BlockNode | None) -> None:
    """Let the child ``file`` or ``backing`` of a node be another, or none.

    Raises ``QmpError``; the caller refreshes permissions.
    """
    edge, driver = parent.children.get(name), parent.driver
    if edge is not None and edge.frozen:
        raise QmpError(
            f"Cannot change frozen '{name}' link from '{parent.node_name}' "
            f"to '{edge.node.node_name}'"
        )
    if name == "backing" and not driver.is_filter and not driver.supports_backing:
        raise QmpError(
            f"Driver '{driver.format_name}' of node '{parent.node_name}' "
            "does not support backing files"
        )
    if node is not None:
        _check_cycle(parent, node, name)
        check_active_parent(parent, node, name)
    inherits = node is not None and inherits_from(node, parent)
    old = edge.node if edge is not None else None
    if edge is None:
        if node is not None:
            change.link(new_chain_edge(parent, node))
    elif node is None:
        change.unlink(edge)
    else:
        change.move(edge, node)
    for below in downwards([old] if old is not None else []):
        if below.inherits_from is parent and not any(e.parent is parent for e in below.parents):
            change.set_inherits_from(below, None)
    if node is not None and inherits:
        change.set_inherits_from(node, parent)


def stage_active(change: GraphChange, nodes: Iterable[BlockNode], *, active: bool) -> None:
    """Let nodes, parents before their children, be active or not; raises ``QmpError``."""
    nodes = list(nodes)
    for node in nodes:
        change.set_inactive(node, not active)
        for edge in node.parents:
            if active:
                change.give_back(edge)
            elif edge.parent.may_inactivate():
                change.hold_back(edge)
    if active:
        change.refresh(nodes)
        return
    try:
        change.refresh(nodes)
    except QmpError as error:  # somebody still needs to write
        raise QmpError(os.strerror(errno.EPERM)) from error


def check_active(node: BlockNode, perm: Permission) -> None:
    """Raise ``QmpError`` if a new root needs more of an inactive node than it can give."""
    if node.inactive and perm & ~Permission.CONSISTENT_READ:
        raise QmpError(f"Permission '{permission_names(perm)}' unavailable on inactive node")


def check_active_parent(parent: BlockNode, node: BlockNode, name: str) -> None:
    """Raise ``QmpError`` if an inactive node would get an active parent."""
    if node.inactive and not parent.inactive:
        raise QmpError(
            f"Inactive '{node.node_name}' can't be a {name} child of active '{parent.node_name}'"
        )


def inherits_from(node: BlockNode, parent: BlockNode) -> bool:
    """Return whether the node is defined, maybe in several steps, in the options of ``parent``."""
    above: BlockNode | None = node
    while above is not None and above is not parent:
        above = above.inherits_from
    return above is not None


def _check_cycle(parent: BlockNode, node: BlockNode, name: str) -> None:
    if node is parent or (parent.parents and parent in downwards([node])):
        raise QmpError(
            f"Making '{node.node_name}' a {name} child of '{parent.node_name}' would create a cycle"
        )


class _Place(NamedTuple):
    """Where an edge stood at its node, for an undo."""

    number: int | None
    """None: it becomes the latest parent."""
    reason: str | None


def _link(edge: Child, place: _Place | None = None) -> None:
    """Enter the edge into both its ends."""
    if isinstance(edge.parent, BlockNode):
        edge.parent.children[edge.name] = edge
    _arrive(edge, place)


def _unlink(edge: Child) -> _Place:
    """Take the edge out of both its ends."""
    if isinstance(edge.parent, BlockNode):
        del edge.parent.children[edge.name]
    return _leave(edge)


def _arrive(edge: Child, place: _Place | None = None) -> None:
    """Enter the edge into its node, as the latest parent or where it stood before."""
    node, parent = edge.node, edge.parent
    if place is None:
        place = _Place(None, None)
        if isinstance(parent, BlockNode) and edge.role & ChildRole.COW:
            reason = f"node is used as backing hd of '{parent.device_or_node_name}'"
            place = place._replace(reason=reason)
    node.parents.add(edge, place.number)
    edge.backing_reason = place.reason
    if place.reason is not None:
        node.blockers.block_all(place.reason, BACKING_EXCEPTIONS)


def _leave(edge: Child) -> _Place:
    """Take the edge out of its node."""
    place = _Place(edge.node.parents.remove(edge), edge.backing_reason)
    if place.reason is not None:
        edge.node.blockers.unblock_all(place.reason)
    return place


def downwards(tops: Iterable[BlockNode]) -> list[BlockNode]:
    """Return the nodes and everything below them, parents before their children."""
    order: dict[BlockNode, None] = {}

    def visit(node: BlockNode) -> None:
        if node not in order:
            for edge in node.children.values():
                visit(edge.node)
            order[node] = None

    for top in tops:
        visit(top)
    return list(reversed(order))


def _parents_first(nodes: Collection[BlockNode]) -> list[BlockNode]:
    """Return nodes in an order in which to look at them: at least one, that is below no other.

    What is below them is looked for only where that takes more than a look at their edges.
    """
    for node in nodes:
        if not node.parents:
            return [node]
    parents = [node for node in nodes if node.children]
    if len(parents) > 1:
        return downwards(nodes)
    return parents or list(nodes)


def chain_edges(top: BlockNode, base: BlockNode | None) -> Iterator[Child]:
    """Return the links from ``top`` down to ``base``, or to the end of the chain."""
    node: BlockNode | None = top
    while node is not None and node is not base:
        edge = node.chain_child
        if edge is None:
            return
        yield edge
        node = edge.node


def check_frozen(edge: Child) -> None:
    """Raise ``QmpError`` if a job relies on the link."""
    if edge.frozen:
        parent = edge.parent
        name = parent.node_name if isinstance(parent, BlockNode) else ""
        raise QmpError(f"Cannot change '{edge.name}' link from '{name}' to '{edge.node.node_name}'")


def refresh_limits_above(node: BlockNode) -> None:
    """Let a node and those above it learn what is below them now."""
    if node.is_open:
        node.refresh_limits()
    for edge in node.parents:
        if isinstance(edge.parent, BlockNode):
            refresh_limits_above(edge.parent)
