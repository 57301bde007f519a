"""What is there in our program: most commands of a random script name such things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .observe import DRIVES, GRAPH, NODES, items_in, said_in

_HOLDING = frozenset({"mirror", "commit"})
"""Types of jobs that keep their disk drained while they are pending, once it was completed."""


@dataclass(slots=True)
class World:
    """Names of what is there, in the order of the replies that they come from."""

    nodes: dict[str, str] = field(default_factory=dict)
    """Nodes that were given a name, and the name of what lies below each in its chain, or ""."""
    used: set[str] = field(default_factory=set)
    """Those that have a parent."""
    writable: set[str] = field(default_factory=set)
    bitmaps: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By node."""
    drives: dict[str, str] = field(default_factory=dict)
    """The node of each device, or ""."""
    jobs: dict[str, str] = field(default_factory=dict)
    """The status of each."""
    holding: list[str] = field(default_factory=list)
    """Jobs that may hold up what a guest writes, until they are finalized or cancelled."""
    exports: list[str] = field(default_factory=list)
    files: frozenset[str] = frozenset()

    def free_nodes(self) -> list[str]:
        """Return the nodes that nothing uses."""
        return [node for node in self.nodes if node not in self.used]

    def overlays(self) -> list[str]:
        """Return the nodes that have another below them."""
        return [node for node, below in self.nodes.items() if below]

    def jobs_in(self, *states: str) -> list[str]:
        """Return the ids of jobs in one of these states."""
        return [name for name, state in self.jobs.items() if state in states]

    def has_bitmap(self, node: str, name: str) -> bool:
        """Return whether a node, or the node of a device, has a bitmap."""
        return name in self.bitmaps_of(node)

    def bitmaps_of(self, name: str) -> list[str]:
        """Return the names of the bitmaps of a node, or of the node of a device."""
        return self.bitmaps.get(self.drives.get(name, name), [])


def look_around(seen: Mapping[str, bytes], directory: Path) -> World:
    """Return what is there, from the replies to the queries, and in the directory."""
    world = World(files=frozenset(path.name for path in directory.iterdir()))
    _read_graph(world, said_in(seen[GRAPH]))
    for node in items_in(seen[NODES]):
        name = node["node-name"]
        if not node["ro"]:
            world.writable.add(name)
        named = [bitmap["name"] for bitmap in node.get("dirty-bitmaps", ()) if "name" in bitmap]
        if named:
            world.bitmaps[name] = named
    for drive in items_in(seen[DRIVES]):
        device = str(drive.get("qdev", "")).rpartition("/")[2]
        world.drives[device] = drive.get("inserted", {}).get("node-name", "")
    world.jobs = {job["id"]: job["status"] for job in items_in(seen["query-jobs"])}
    world.exports = [export["id"] for export in items_in(seen["query-block-exports"])]
    return world


def _read_graph(world: World, graph: Any) -> None:
    names = {node["id"]: node["name"] for node in graph["nodes"] if node["type"] == "block-driver"}
    below: dict[str, str] = {}
    for edge in graph["edges"]:
        child, parent = names[edge["child"]], names.get(edge["parent"])
        world.used.add(child)
        if parent is not None and edge["name"] != "target":
            # A backing file counts for more than the file that holds an image.
            below[parent] = child if edge["name"] == "backing" else below.get(parent, child)
    world.nodes = {
        name: chain if (chain := below.get(name, "")) != f"{name}-file" else ""
        for name in names.values()
        if not name.startswith("#") and not name.endswith("-file")
    }
