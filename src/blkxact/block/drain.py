"""Drained sections: no request is under way on some nodes, and none begins.

Laws:

* Requests begin at roots (backends, jobs, exports), so a section stops the roots above its nodes
  and waits until these and the nodes between are idle.
* A section resumes exactly the roots that it stopped, whatever became of the graph inside. A root
  that comes to stand above a drained node is stopped at once.
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
    """One drained section: which roots it has stopped and which drivers it has told."""

    def __init__(self, nodes: Iterable[BlockNode]) -> None:
        self.nodes = list(dict.fromkeys(nodes))
        self._roots: list[Parent] = []
        self._drivers: list[BlockDriver] = []

    def begin(self) -> None:
        """Stop the roots; requests under way go on."""
        for node in self.nodes:
            node.sections.append(self)
        self.cover()

    def cover(self) -> None:
        """Stop the roots above the nodes that are not stopped yet."""
        for parent in _upwards(self.nodes):
            if not isinstance(parent, BlockNode):
                if parent not in self._roots:
                    self._roots.append(parent)
                    parent.quiesce()
            elif parent.is_open and parent.driver not in self._drivers:
                self._drivers.append(parent.driver)
                parent.driver.drain_begin()

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


def _upwards(nodes: Iterable[BlockNode]) -> Iterator[Parent]:
    """Yield the nodes and all their ancestors, each once."""
    found: set[Parent] = set()
    todo: list[Parent] = list(nodes)
    while todo:
        parent = todo.pop()
        if parent in found:
            continue
        found.add(parent)
        if isinstance(parent, BlockNode):
            todo.extend(edge.parent for edge in parent.parents)
        yield parent


def cover_edge(edge: Child) -> None:
    """Stop the root above a new edge, if the edge leads into drained sections."""
    todo = [edge.node]
    seen: set[BlockNode] = set()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for section in node.sections:
            section.cover()
        todo.extend(child.node for child in node.children.values())


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
