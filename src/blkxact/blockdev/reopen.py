"""Reopening: other options for nodes that are in use.

Invariants:

* All nodes of one reopen get their new options, or none does.
* Everything is checked before anything is written. The nodes and what is below them are drained
  meanwhile.
* A format that turns read-only writes back what it has cached before it loses the permission to
  write; one that turns writable has that permission before it writes.

QEMU's counterpart: ``bdrv_reopen_multiple`` and ``bdrv_reopen_prepare`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from blkxact.block.chain import skip_implicit_filters
from blkxact.block.drain import drained
from blkxact.block.graph import Graph
from blkxact.block.graph_change import (
    GraphChange,
    NewChild,
    downwards,
    refresh_limits_above,
    stage_child,
    trial,
)
from blkxact.block.node import BlockNode
from blkxact.block.node_options import FLAT_NAMES
from blkxact.block.threads import check_threads
from blkxact.block.types import ChildRole
from blkxact.errors import QmpError, strerror
from blkxact.qmp.qdict import in_qdict_order

from .reopen_queue import Reopening, ReopenQueue, current_options

_MAY_DIFFER: Final = frozenset(FLAT_NAMES) - {"node-name", "force-share"}
_RESETTABLE: Final = _MAY_DIFFER | {"node-name"}
_ABSENT: Final = object()


async def reopen_nodes(graph: Graph, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Reopen nodes with these BlockdevOptions, which have their ``node-name``.

    Raises ``QmpError`` with nothing changed.
    """
    queue = ReopenQueue()
    for members in wanted:
        name = members.get("node-name")
        if name is None:
            raise QmpError("node-name not specified")
        node = graph.find(name)
        if node is None:
            raise QmpError(f"Failed to find node with node-name='{name}'")
        queue.add(node, members)
    await _reopen(graph, list(queue.entries.values()))


async def change_options(graph: Graph, node: BlockNode, members: Mapping[str, Any]) -> None:
    """Reopen a node with these BlockdevOptions; what is left out stays.

    Raises ``QmpError`` with nothing changed.
    """
    queue = ReopenQueue()
    queue.add(node, members, keep_old=True)
    await _reopen(graph, list(queue.entries.values()))


async def set_read_only(graph: Graph, node: BlockNode, read_only: bool) -> None:
    """Reopen a node, and the children defined with it, without other changes.

    Raises ``QmpError`` with nothing changed.
    """
    if node.read_only != read_only:
        await change_options(graph, node, {"read-only": read_only})


async def _reopen(graph: Graph, entries: list[Reopening]) -> None:
    async with drained(downwards(entry.node for entry in entries)):
        for entry in entries:
            try:
                await entry.node.flush()
            except OSError as error:
                raise QmpError(f"Error flushing drive: {strerror(error)}") from error
        children = _prepare(graph, entries)
        new = [node for _, _, node in children if node is not None]
        async with drained(new), AsyncExitStack() as undo:
            await _change(graph, entries, children, undo)
            undo.pop_all()
        _commit(entries, children)


# Checks


def _prepare(graph: Graph, entries: list[Reopening]) -> list[NewChild]:
    """Check each node's options in turn; return which children are to be others.

    Raises ``QmpError``.
    """
    children: list[NewChild] = []
    with trial() as change:
        for entry in entries:
            _prepare_node(graph, entry, children, change)
    return children


def _prepare_node(
    graph: Graph, entry: Reopening, children: list[NewChild], change: GraphChange
) -> None:
    node, driver = entry.node, entry.node.driver
    entry.common.check_detect_zeroes()
    if "active" in entry.own and entry.common.active is node.inactive:
        raise QmpError("Cannot change the option 'active'")
    if node.copy_on_read is not None and entry.common.read_only:
        name = node.device_or_node_name
        raise QmpError(f"Can't set node '{name}' to r/o with copy-on-read enabled")
    if driver.reopenable is None:
        raise QmpError(
            f"Block format '{driver.format_name}' used by node '{node.device_or_node_name}' "
            "does not support reopening files"
        )
    old = current_options(node)
    for name in in_qdict_order(old):
        if name not in entry.options and name not in _RESETTABLE | driver.resettable:
            raise QmpError(f"Option '{name}' cannot be reset to its default value")
    context = driver.context._replace(
        read_only=entry.common.read_only,
        auto_read_only=entry.common.auto_read_only,
        discard=entry.common.discard,
        detect_zeroes=entry.common.detect_zeroes != "off",
        no_flush=entry.common.no_flush,
    )
    entry.take = driver.prepare_reopen(context, entry.driver_options())
    if node.read_only and entry.common.read_only:
        _check_stored(node)
    if (
        driver.supports_backing
        and entry.backing_missing
        and (node.backing is not None or driver.backing_file)
    ):
        raise QmpError(f"backing is missing for '{node.node_name}'")
    for child in ("backing", "file"):
        if child in entry.options:
            _prepare_child(graph, entry, child, children, change)
    _check_unchanged(entry, old, driver.reopenable)


def _check_stored(node: BlockNode) -> None:
    """Raise ``QmpError`` if there are bitmaps that a read-only image cannot keep.

    QEMU stores them whenever a node is reopened read-only.
    """
    kept = (it for it in node.bitmaps.values() if it.stored and not it.inconsistent)
    if not all(bitmap.read_only for bitmap in kept):
        raise QmpError("No write access")


def _prepare_child(
    graph: Graph,
    entry: Reopening,
    name: str,
    children: list[NewChild],
    change: GraphChange,
) -> None:
    """Stage the change of ``file`` or ``backing``, if it is one; raises ``QmpError``."""
    node, value = entry.node, entry.options[name]
    new = None if value is None else graph.lookup(None, value)
    if new is not None and node in downwards([new]):
        raise QmpError(
            f"Making '{value}' a {name} child of '{node.node_name}' would create a cycle"
        )
    # A filter's only child is its file, whatever its own name for it.
    edge = node.child_in_role(ChildRole.PRIMARY) if name == "file" else node.children.get(name)
    old = edge.node if edge is not None else None
    if new is old or (old is not None and skip_implicit_filters(old) is new):
        return
    if old is not None and old.implicit:
        raise QmpError(f"Cannot replace implicit {name} child of {node.node_name}")
    if old is None and node.driver.is_filter:
        raise QmpError(
            f"'{node.node_name}' is a {node.driver.format_name} filter node "
            f"that does not support a {name} child"
        )
    if new is not None:
        check_threads([node, new])
    stage_child(change, node, edge.name if edge is not None else name, new)
    children.append((node, name, new))


def _check_unchanged(entry: Reopening, old: Mapping[str, Any], reopenable: Iterable[str]) -> None:
    """Raise ``QmpError`` naming the first option that cannot change and would."""
    may_differ = _MAY_DIFFER.union(reopenable, ("backing", "file"))
    for name, value in in_qdict_order(entry.options).items():
        if name in may_differ:
            continue
        child = entry.node.children.get(name)
        if child is not None and child.node.node_name == value:
            continue
        was = old.get(name, _ABSENT)
        # QEMU has lost the type of force-share by here, so no value is like the old one.
        if name == "force-share" or type(was) is not type(value) or was != value:
            raise QmpError(f"Cannot change the option '{name}'")


# Changes


async def _change(
    graph: Graph, entries: list[Reopening], children: list[NewChild], undo: AsyncExitStack
) -> None:
    """Change access and children; ``undo`` gets what takes each step back."""
    turned = [entry for entry in entries if entry.turns_read_only or entry.turns_writable]
    ordered = [(entry.node, entry.turns_read_only) for entry in turned]
    kept = [(node, new) for node, new in ordered if node.driver.is_protocol or not node.inactive]
    for node, read_only in kept:
        if read_only and not node.driver.is_protocol:
            undo.push_async_callback(node.driver.activate_write)
            await node.store_bitmaps()
            await node.driver.deactivate_write()
        elif not read_only and node.driver.is_protocol:
            undo.callback(setattr, node.driver, "read_only", True)
            node.driver.read_only = False
            undo.push_async_callback(node.driver.deactivate_write)
            await node.driver.activate_write()
    old = [(node, name, _child_node(node, name)) for node, name, _ in children]
    nodes = [entry.node for entry in entries]
    _switch(graph, children, nodes, ordered)
    undo.callback(_switch, graph, old, nodes, [(node, not new) for node, new in ordered])
    for node, read_only in reversed(kept):
        if read_only and node.driver.is_protocol:
            undo.push_async_callback(node.driver.activate_write)
            await node.driver.deactivate_write()
        elif not read_only and not node.driver.is_protocol:
            undo.push_async_callback(node.driver.deactivate_write)
            await node.driver.activate_write()


def _child_node(node: BlockNode, name: str) -> BlockNode | None:
    edge = node.children.get(name)
    return edge.node if edge is not None else None


def _switch(
    graph: Graph,
    children: Sequence[NewChild],
    nodes: Sequence[BlockNode],
    turned: Sequence[tuple[BlockNode, bool]],
) -> None:
    """Change children, and which nodes are read-only, at once; raises ``QmpError``."""
    was = [(node, node.driver.read_only) for node, _ in turned]
    for node, read_only in turned:
        node.turns_read_only = read_only and not node.driver.read_only
        node.driver.read_only = read_only
    try:
        graph.replace_children(children, nodes)
    except QmpError:
        for node, read_only in was:
            node.driver.read_only = read_only
        raise
    finally:
        for node, _ in turned:
            node.turns_read_only = False


def _commit(entries: list[Reopening], children: list[NewChild]) -> None:
    """Let the nodes and their drivers take the other options; children first."""
    for entry in reversed(entries):
        node, length = entry.node, entry.node.length
        entry.take()
        node.options = {
            name: value
            for name, value in entry.own.items()
            if name not in node.children and name != "backing"
        }
        node.texts = {}
        node.take_common(entry.common)
        refresh_limits_above(node)
        for bitmap in node.bitmaps.values():
            if bitmap.stored and not bitmap.inconsistent:
                bitmap.read_only = node.read_only
        if node.length != length:
            node.length_changed()
    for node, name, _ in children:
        if name == "backing":
            node.backing_opened_as = None
