"""Walking down a chain of nodes: past filters, and from layer to layer.

A *filter* is a driver that says so (``is_filter``). A raw image over all of a node shows that
node's data too, so it is *transparent* as filters are, but QEMU counts it as a layer.

QEMU's counterpart: ``bdrv_skip_filters``, ``bdrv_skip_implicit_filters``,
``bdrv_filter_or_cow_bs``, ``bdrv_find_overlay`` and ``bdrv_backing_chain_next`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .internal_snapshots import InternalSnapshots
from .node import BlockNode
from .types import ChildRole

OWN_DATA: Final = ChildRole.DATA | ChildRole.METADATA | ChildRole.FILTERED
"""Roles of children that hold the node's own data, unlike a backing file."""


def skip_filters(node: BlockNode) -> BlockNode:
    """Return the first node at or below ``node`` that is no filter."""
    while node.filtered is not None and node.driver.is_filter:
        node = node.filtered
    return node


def skip_implicit_filters(node: BlockNode) -> BlockNode:
    """Return the first node at or below ``node`` that is no filter that a job has put in."""
    while node.implicit and node.filtered is not None:
        node = node.filtered
    return node


def skip_transparent(node: BlockNode) -> BlockNode:
    """Return the first node at or below ``node`` that has data of its own."""
    while node.filtered is not None:
        node = node.filtered
    return node


def next_layer(node: BlockNode) -> BlockNode | None:
    """Return the node that a filter filters; of any other node the backing file."""
    return node.filtered if node.driver.is_filter else node.backing


def snapshots_of(node: BlockNode) -> InternalSnapshots | None:
    """Return the internal snapshots that a node has or shows: those of its only child with data."""
    path = _down_to_snapshots(node)
    return path[-1].driver.internal_snapshots if path else None


def can_snapshot(node: BlockNode) -> bool:
    """Return whether snapshots of a node can be taken: all down to its image is writable."""
    path = _down_to_snapshots(node)
    return bool(path) and all(each.is_writable for each in path)


def _down_to_snapshots(node: BlockNode) -> list[BlockNode]:
    """Return the nodes from this one to that whose snapshots it shows; none if it shows none."""
    path = [node]
    while path[-1].driver.internal_snapshots is None:
        last = path[-1]
        children = [edge for edge in last.children.values() if edge.role & OWN_DATA]
        if len(children) != 1 or last.primary is not children[0].node:
            return []
        path.append(last.primary)
    return path


def chain_nodes(top: BlockNode, base: BlockNode | None = None) -> Iterator[BlockNode]:
    """Yield the layers from ``top`` down to ``base`` (exclusive), or to the end of the chain."""
    node: BlockNode | None = top
    while node is not None and node is not base:
        yield node
        node = next_layer(node)


def find_overlay(top: BlockNode, below: BlockNode | None) -> BlockNode | None:
    """Return the image in the chain of ``top`` whose backing file is ``below``, past filters.

    ``below`` None: the last image of the chain.
    """
    wanted = skip_filters(below) if below is not None else None
    image: BlockNode | None = skip_filters(top)
    while image is not None:
        following = skip_filters(image.backing) if image.backing is not None else None
        if following is wanted:
            return image
        image = following
    return None


def backing_chain_next(node: BlockNode) -> BlockNode | None:
    """Return the backing image of the first node at or below ``node`` with data of its own.

    It is no filter: one of those that jobs put in would be gone with its job.
    """
    backing = skip_transparent(node).backing
    return None if backing is None else skip_filters(backing)
