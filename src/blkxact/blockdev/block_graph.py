"""The whole graph for people who debug it: roots, nodes and edges with their permissions.

QEMU's counterpart: ``bdrv_get_xdbg_block_graph()``; ``qapi/block-core.json`` (XDbgBlockGraph).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block.child import Child
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.block.types import Permission
from blkxact.enums import BlockPermission
from blkxact.job.block_job import BlockJob


class _Description:
    """XDbgBlockGraph in the making: each object has the number of its first mention."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self._ids: dict[object, int] = {}

    def _id(self, thing: object) -> int:
        return self._ids.setdefault(thing, len(self._ids) + 1)

    def add(self, thing: object, kind: str, name: str, edges: Iterable[Child]) -> None:
        """Describe a root or a node, and its edges."""
        self.nodes.append({"id": self._id(thing), "type": kind, "name": name})
        for edge in edges:
            self.edges.append(
                {
                    "parent": self._id(thing),
                    "child": self._id(edge.node),
                    "name": edge.name,
                    "perm": _names(edge.perm),
                    "shared-perm": _names(edge.shared),
                }
            )


def describe_graph(
    graph: Graph, devices: Iterable[BlockBackend], jobs: Iterable[BlockJob]
) -> dict[str, Any]:
    """Return XDbgBlockGraph: all backends (``devices`` may be empty ones), jobs and nodes."""
    description = _Description()
    nodes = list(graph.nodes.values())
    edges = _edges_by_parent(graph, devices)
    for parent, roots in edges.items():
        if isinstance(parent, BlockBackend):
            name = parent.name or parent.qdev_path or ""
            description.add(parent, "block-backend", name, roots)
        elif _is_backend(parent):
            description.add(parent, "block-backend", "", roots)
    for job in jobs:
        description.add(job, "block-job", job.id or "", edges.get(job, ()))
    for node in nodes:
        description.add(node, "block-driver", node.node_name, _children(node))
    # The latest come first, as in QEMU.
    return {"nodes": description.nodes[::-1], "edges": description.edges[::-1]}


def below_backends(graph: Graph, devices: Iterable[BlockBackend]) -> list[BlockNode]:
    """Return the nodes that a device, an export or a job has a backend for; the devices' first."""
    edges = _edges_by_parent(graph, devices)
    return [edge.node for parent, roots in edges.items() if _is_backend(parent) for edge in roots]


def _edges_by_parent(graph: Graph, devices: Iterable[BlockBackend]) -> dict[object, list[Child]]:
    edges: dict[object, list[Child]] = {device: [] for device in devices}
    for node in graph.nodes.values():
        for edge in node.parents:
            edges.setdefault(edge.parent, []).append(edge)
    return edges


def _is_backend(parent: object) -> bool:
    """Return whether QEMU has a BlockBackend there; a job writes through one of its own."""
    return not isinstance(parent, BlockJob | BlockNode)


def _children(node: BlockNode) -> list[Child]:
    return list(node.children.values())[::-1]


def _names(permissions: Permission) -> list[BlockPermission]:
    return [each for each in reversed(BlockPermission) if permissions & Permission[each.name]]
