"""Where in an emulator something is to happen: names of places, mapped onto the points.

A place is the name of a point with facts (``transaction.prepare``, ``action="drive-backup"``), or a
request of a node: ``vda.write``, ``target.flush``. The node is given by its name, by its place in
the graph (``backup0.target``, ``vda.file``), or by what it is to its parent (``target``). A fact is
given whole or by its first words: ``drive-backup`` for ``drive-backup vda /b.qcow2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blkxact.block_layer import BlockLayer
from blkxact.runtime.points import NODE_REQUESTS, POINTS, Point

from .errors import KitError

Facts = Mapping[str, Any]
Listener = Callable[[Facts], Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A point, and which of its passings are meant."""

    name: str
    """As the test gave it."""
    point: Point
    facts: Facts
    node: str | None = None

    def is_meant(self, layer: BlockLayer, facts: Facts) -> bool:
        """Return whether a passing is one of those."""
        if not all(_fits(facts[name], value) for name, value in self.facts.items()):
            return False
        return self.node is None or self.node == facts["node"] or _is(layer, self.node, facts)


def find_place(name: str, facts: Facts) -> Place:
    """Return the place of that name; raises ``KitError``."""
    point, node = POINTS.get(name), None
    if point is None:
        node, _, request = name.rpartition(".")
        if not node or request not in NODE_REQUESTS:
            raise KitError(
                f"there is no point {name!r}; a node's requests are NODE."
                + ", NODE.".join(NODE_REQUESTS)
            )
        point = POINTS[f"request.{request}"]
    wire = {fact.replace("_", "-"): value for fact, value in facts.items()}
    unknown = sorted(wire.keys() - set(point.facts))
    if unknown:
        has = ", ".join(point.facts) or "none"
        raise KitError(f"{name} has no fact {unknown[0]!r}; it has {has}")
    return Place(name, point, wire, node)


def _fits(fact: object, value: object) -> bool:
    """Return whether a fact is the wanted one: whole, or for a text its first words."""
    is_begin = isinstance(fact, str) and fact.startswith(f"{value} ")
    return value in (fact, str(fact)) or is_begin


def _is(layer: BlockLayer, role: str, facts: Facts) -> bool:
    """Return whether the node of a request is ``role`` to one of its parents."""
    address = facts["node"]
    return any(
        edge.name == role
        for node in layer.graph.nodes.values()
        if node.address == address
        for edge in node.parents
    )


class Post:
    """A listener at a place, in this life of the emulator and in those after a restart."""

    def __init__(self, place: Place, listener: Listener) -> None:
        self.place = place
        self._listener = listener
        self._stop: Callable[[], None] | None = None

    def attach(self, layer: BlockLayer) -> None:
        """Listen to this emulator from now on."""

        def passed(_name: str, facts: Facts) -> Any:
            return self._listener(facts) if self.place.is_meant(layer, facts) else None

        self._stop = layer.points.listen(self.place.point.name, passed)

    def leave(self) -> None:
        """Stop listening."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


class Posts:
    """All listeners of a test."""

    def __init__(self) -> None:
        self._posts: list[Post] = []
        self._layer: BlockLayer | None = None

    def begin(self, layer: BlockLayer) -> None:
        """Listen to an emulator that is about to start."""
        self._layer = layer
        for post in self._posts:
            post.attach(layer)

    def add(self, place: Place, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the facts of each passing; return the function that ends it."""
        post = Post(place, listener)
        self._posts.append(post)
        if self._layer is not None:
            post.attach(self._layer)

        def end() -> None:
            if post in self._posts:
                self._posts.remove(post)
            post.leave()

        return end
