"""Drained sections: no request is under way on some nodes, and none begins.

Invariants:

* Requests begin at roots (backends, jobs, exports), so a section stops the roots above its nodes
  and waits until these and the nodes between are idle.
* A section resumes exactly the roots that it stopped, whatever became of the graph inside. A root
  that comes to stand above a drained node is stopped at once; one that its device takes away
  (``uncover``) goes on at once.
* A request that is waited for may be held back by a driver below (throttling); that lets it go.
* Sections nest and overlap: what they do is counted.
* Whoever enters a section must not be a request or a job that the section waits for.

QEMU's counterpart: ``bdrv_drained_begin`` and ``bdrv_drained_end``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from .child import Child, Parent
from .driver_api import BlockDriver
from .node import BlockNode


class DrainSection:
    """One drained section: which roots it has stopped and which drivers it has informed."""

    def __init__(self, nodes: Iterable[BlockNode]) -> None:
        self.nodes = list(dict.fromkeys(nodes))
        # As ordered sets: no order depends on addresses.
        self._roots: dict[Parent, None] = {}
        self._drivers: dict[BlockDriver, None] = {}

    def begin(self) -> None:
        """Stop the roots; requests under way go on."""
        for node in self.nodes:
            node.sections.append(self)
        self.cover(self.nodes)
        for below in _downwards(self.nodes):
            self._let_go(below)

    def cover(self, lowest: Iterable[Parent]) -> None:
        """Stop the roots among and above these parents that are not stopped yet."""
        for parent in _upwards(lowest):
            if not isinstance(parent, BlockNode):
                if parent not in self._roots:
                    self._roots[parent] = None
                    parent.quiesce()
            else:
                self._let_go(parent)

    def _let_go(self, node: BlockNode) -> None:
        if node.is_open and node.driver not in self._drivers:
            self._drivers[node.driver] = None
            node.driver.drain_begin()

    def uncover(self, root: Parent) -> None:
        """Let a root go on if it is above none of the nodes any more."""
        if root in self._roots and root not in _upwards(self.nodes):
            del self._roots[root]
            root.resume()

    async def idle(self) -> None:
        """Wait until nothing is under way above or on the nodes."""
        while busy := next((one for one in _upwards(self.nodes) if not one.is_idle()), None):
            await busy.idle()

    def end(self) -> None:
        """Let the roots go on that this section has stopped."""
        for node in self.nodes:
            node.sections.remove(self)
        for driver in self._drivers:
            driver.drain_end()
        for root in self._roots:
            root.resume()


def _upwards(lowest: Iterable[Parent]) -> Iterator[Parent]:
    """Yield these parents and all their ancestors, each once."""
    found: set[Parent] = set()
    todo: list[Parent] = list(lowest)
    while todo:
        parent = todo.pop()
        if parent in found:
            continue
        found.add(parent)
        if isinstance(parent, BlockNode):
            todo.extend(edge.parent for edge in parent.parents)
        yield parent


def _downwards(highest: Iterable[BlockNode]) -> Iterator[BlockNode]:
    """Yield all nodes below these, each once."""
    found = set(highest)
    todo = list(found)
    while todo:
        for child in todo.pop().children.values():
            if child.node not in found:
                found.add(child.node)
                todo.append(child.node)
                yield child.node


def cover_edge(edge: Child) -> None:
    """Cover what a new edge has brought above drained nodes: roots, and nodes on the way."""
    below: dict[BlockNode, dict[DrainSection, None]] = {}
    for section in _sections_below(edge.node, below):
        section.cover(node for node, sections in below.items() if section in sections)


def uncover(root: Parent, left: BlockNode) -> None:
    """Let a root go on that has left a node, but for the sections that hold it where it is now."""
    for section in _sections_below(left, {}):
        section.uncover(root)


def _sections_below(
    node: BlockNode, known: dict[BlockNode, dict[DrainSection, None]]
) -> dict[DrainSection, None]:
    """Return the sections that hold the node or one below it; all that was asked is ``known``."""
    if node not in known:
        known[node] = found = dict.fromkeys(node.sections)
        for child in node.children.values():
            found |= _sections_below(child.node, known)
    return known[node]


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
