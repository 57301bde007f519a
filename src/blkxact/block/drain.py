"""Drained sections: no request is under way on some nodes, and none begins.

Invariants:

* Requests begin at roots (backends, jobs, exports), so a section stops the roots above its nodes
  and waits until these and the nodes between are idle.
* A section stops a root once for each edge by which it is above the nodes, and resumes it when the
  edge leaves or the section ends. So after each change of the graph exactly those roots are stopped
  that are above a drained node (``follow_edges``).
* A request that is waited for may be held back by a driver below (throttling); that lets it go.
* Sections nest and overlap: what they do is counted.
* Whoever enters a section must not be a request or a job that the section waits for.

QEMU's counterpart: ``bdrv_drained_begin`` and ``bdrv_drained_end``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

from .child import Child, Parent
from .driver_api import BlockDriver
from .node import BlockNode


class DrainSection:
    """One drained section: which roots it has stopped and which drivers it has informed."""

    def __init__(self, nodes: Iterable[BlockNode]) -> None:
        # As ordered sets: no order depends on addresses.
        self.nodes = dict.fromkeys(nodes)
        self._held: dict[BlockNode, BlockDriver | None] = {}
        """The nodes and all above them, with their drivers if those were informed."""
        self._stopped: dict[Child, None] = {}
        """The edges from roots to those."""
        self._below: list[BlockDriver] = []
        """The drivers of nodes below that were informed."""

    def begin(self) -> None:
        """Stop the roots; requests under way go on."""
        for node in reversed(self.nodes):
            self.cover(self._hold(node))
        for node in _downwards(self.nodes):
            if node.is_open:
                self._below.append(node.driver)
                node.driver.drain_begin()

    def cover(self, edges: Iterable[Child]) -> None:
        """Stop what reaches held nodes by these edges, as far as it is not stopped yet."""
        todo = list(edges)
        while todo:
            edge = todo.pop()
            if isinstance(edge.parent, BlockNode):
                todo += self._hold(edge.parent)
            elif edge not in self._stopped:
                self._stopped[edge] = None
                edge.parent.quiesce()

    def _hold(self, node: BlockNode) -> Iterable[Child]:
        """Hold the node; returns the edges that are to be covered with it."""
        if node in self._held:
            return ()
        self._held[node] = None
        node.sections.append(self)
        if node.is_open:
            self.inform(node)
        return node.parents

    def inform(self, node: BlockNode) -> None:
        """Let the driver of a held node, which may just have been opened, hold nothing back."""
        self._held[node] = node.driver
        node.driver.drain_begin()

    def uncover(self, edge: Child) -> None:
        """Resume what was above the nodes only by this edge, which has left."""
        todo = [edge]
        while todo:
            edge = todo.pop()
            parent = edge.parent
            if isinstance(parent, BlockNode):
                if parent in self._held and not self._is_above(parent):
                    self._release(parent)
                    todo += parent.parents
            elif edge in self._stopped:
                del self._stopped[edge]
                parent.resume()

    def _is_above(self, node: BlockNode) -> bool:
        return node in self.nodes or any(edge.node in self._held for edge in node.children.values())

    def _release(self, node: BlockNode) -> None:
        driver = self._held.pop(node)
        node.sections.remove(self)
        if driver is not None:
            driver.drain_end()

    async def idle(self) -> None:
        """Wait until nothing is under way above or on the nodes."""
        while busy := next((one for one in self._all() if not one.is_idle()), None):
            await busy.idle()

    def _all(self) -> Iterator[Parent]:
        yield from self._held
        yield from (edge.parent for edge in self._stopped)

    def end(self) -> None:
        """Let the roots go on that this section has stopped."""
        for driver in self._below:
            driver.drain_end()
        for node in list(self._held):
            self._release(node)
        stopped, self._stopped = self._stopped, {}
        for edge in stopped:
            edge.parent.resume()


def _downwards(highest: Iterable[BlockNode]) -> Iterator[BlockNode]:
    """Yield all nodes below these, each once."""
    todo = list(highest)
    found = set(todo)
    while todo:
        for child in todo.pop().children.values():
            if child.node not in found:
                found.add(child.node)
                todo.append(child.node)
                yield child.node


def follow_edges(old_nodes: Mapping[Child, BlockNode | None]) -> None:
    """Let sections hold what is above them after a change of edges, and nothing else.

    ``old_nodes``: to which node each of the edges led before, if to any.
    """
    moves = [
        (edge, old.sections if old else [], edge.node.sections if edge in edge.node.parents else [])
        for edge, old in old_nodes.items()
    ]
    # First what arrives: a root that stays above a section by another edge must not go on between.
    for edge, _, sections in moves:
        for section in sections:
            section.cover([edge])
    for edge, before, sections in moves:
        for section in list(before):
            if section not in sections:
                section.uncover(edge)


@asynccontextmanager
async def drained(nodes: Iterable[BlockNode]) -> AsyncIterator[DrainSection]:
    """Keep requests away from the nodes while the block runs."""
    section = DrainSection(nodes)
    section.begin()
    try:
        await section.idle()
        yield section
    finally:
        section.end()
