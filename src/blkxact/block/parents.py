"""The edges from above to one node, and what they need and share together.

Invariants:

* The latest edge is the last. One that is taken back comes to where it was.
* How many edges have the same masks is counted, so what all of them need and share costs the same
  for a thousand (there are few masks). Masks of an entered edge change only through
  ``set_permissions``.

QEMU's counterpart: ``BlockDriverState.parents``, which it walks for each change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import itemgetter

from .child import Child
from .types import Permission


class Parents(Collection[Child]):
    """The edges to one node."""

    def __init__(self) -> None:
        self._edges: dict[Child, int] = {}
        """Each edge with its place: a number that grows from one to the next."""
        self._next_place = 0
        self.kinds: dict[tuple[int, int], int] = {}
        """How many edges have the same ``masks``."""

    def __iter__(self) -> Iterator[Child]:
        return iter(self._edges)

    def __reversed__(self) -> Iterator[Child]:
        return reversed(self._edges)

    def __len__(self) -> int:
        return len(self._edges)

    def __contains__(self, edge: object) -> bool:
        return edge in self._edges

    def add(self, edge: Child, place: int | None = None) -> None:
        """Enter an edge as the latest, or at the place from which ``remove`` took it."""
        assert edge not in self._edges, edge
        if place is None:
            self._edges[edge] = self._next_place
            self._next_place += 1
        else:
            self._edges[edge] = place
            self._edges = dict(sorted(self._edges.items(), key=itemgetter(1)))
        self._count(edge)

    def remove(self, edge: Child) -> int:
        """Take an edge out; returns its place."""
        self._discount(edge)
        return self._edges.pop(edge)

    def set_permissions(self, edge: Child, perm: Permission, shared: Permission) -> None:
        """Change the masks of one of the edges, without a check."""
        assert edge in self._edges, edge
        self._discount(edge)
        edge.set_permissions(perm, shared)
        self._count(edge)

    def _count(self, edge: Child) -> None:
        self.kinds[edge.masks] = self.kinds.get(edge.masks, 0) + 1

    def _discount(self, edge: Child) -> None:
        self.kinds[edge.masks] -= 1
        if not self.kinds[edge.masks]:
            del self.kinds[edge.masks]
