"""``savevm``, ``loadvm``, ``delvm``, ``info snapshots``: all disks at one point in time.

There is no machine whose state could be saved: the snapshots say that its state is of 0 bytes, and
QEMU refuses to load it. ``loadvm`` sets the disks back, whoever took the snapshot.

Invariant: a snapshot is taken on all disks or on none.

QEMU's counterpart: ``migration/savevm.c``, ``bdrv_all_*`` in ``block/snapshot.c``,
hmp_info_snapshots.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from blkxact.block.drain import drained
from blkxact.block.internal_snapshots import (
    InternalSnapshot,
    InternalSnapshots,
    describe_snapshot,
    find_by_id_or_name,
    find_snapshot,
)
from blkxact.block.node import BlockNode
from blkxact.block.snapshot_table import snapshot_table
from blkxact.errors import QmpError, strerror

from .command import HmpCommand
from .command_line import Word
from .host import Context

_US_PER_S: Final = 1_000_000


async def save(context: Context, arguments: Mapping[str, Any]) -> None:
    """``savevm``: take a snapshot; one of that name is replaced."""
    date_us = context.layer.clock.realtime_us()
    name = arguments.get("name")
    disks = _disks_with_snapshots(context)
    if name is not None:
        await _delete(context, disks, name)
    else:
        name = time.strftime("vm-%Y%m%d%H%M%S", time.localtime(date_us // _US_PER_S))
    _first(disks)
    running = await _stop(context)
    try:
        async with drained(disks):
            await _take(context, disks, name, date_us)
    finally:
        if running:
            await context.query("cont")


async def _take(context: Context, disks: list[BlockNode], name: str, date_us: int) -> None:
    taken: list[tuple[InternalSnapshots, InternalSnapshot]] = []
    for node in disks:
        snapshots = _of(node)
        try:
            await node.flush()
            taken.append((snapshots, await snapshots.create(name, date_us=date_us)))
        except OSError as error:
            for done, snapshot in taken:
                await done.delete(snapshot)
            where = _name(context, node)
            raise QmpError(f"Could not create snapshot '{name}' on '{where}'") from error


async def load(context: Context, arguments: Mapping[str, Any]) -> None:
    """``loadvm``: set all disks back to a snapshot; after a failure the guest stays stopped."""
    name = arguments["name"]
    running = await _stop(context)
    disks = _disks_with_snapshots(context)
    if any(find_snapshot(_of(node), name=name) is None for node in disks):
        raise QmpError(f"Snapshot '{name}' does not exist in one or more devices")
    _first(disks)
    async with drained(disks):
        for node in disks:
            await _apply(context, node, name)
    if running:
        await context.query("cont")


async def _apply(context: Context, node: BlockNode, name: str) -> None:
    refusal = f"Could not load snapshot '{name}' on '{_name(context, node)}'"
    if node.bitmaps:
        raise QmpError(f"{refusal}: Device has active dirty bitmaps")
    snapshot = find_by_id_or_name(_of(node), name)
    try:
        if snapshot is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # noqa: TRY301
        await _of(node).apply(snapshot)
    except OSError as error:
        raise QmpError(f"{refusal}: Failed to load snapshot: {strerror(error)}") from error


async def delete(context: Context, arguments: Mapping[str, Any]) -> None:
    """``delvm``: forget the snapshots of that name."""
    await _delete(context, _disks_with_snapshots(context), arguments["name"])


async def _delete(context: Context, disks: list[BlockNode], name: str) -> None:
    for node in disks:
        snapshot = find_snapshot(_of(node), name=name)
        if snapshot is None:
            continue
        try:
            async with drained([node]):
                await _of(node).delete(snapshot)
        except OSError as error:
            raise QmpError(
                f"Could not delete snapshot '{name}' on '{_name(context, node)}': "
                f"Failed to remove snapshot from snapshot list: {strerror(error)}"
            ) from error


async def info(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info snapshots``: those that all disks have, and those that only some have."""
    del arguments
    disks = list(_disks(context))
    try:
        first = _first(disks)
    except QmpError as error:
        context.answer_error(error)
        return
    able = [node for node in _nodes(context) if not node.read_only and _can(node)]
    entries = {node: [describe_snapshot(each) for each in _of(node).entries] for node in able}
    if not any(entries.values()):
        context.answer("There is no snapshot available.\n")
        return
    everywhere = [
        each
        for each in entries[first]
        if all(_can(node) and find_snapshot(_of(node), name=each["name"]) for node in disks)
    ]
    context.answer("List of snapshots present on all disks:\n")
    if everywhere:
        # The ids need not be the same on all disks.
        _answer_table(context, [{**each, "id": "--"} for each in everywhere])
    else:
        context.answer("None\n")
    names = {each["name"] for each in everywhere}
    for node, snapshots in entries.items():
        partial = [each for each in snapshots if each["name"] not in names]
        if partial:
            device = _device(context, node)
            context.answer(f"\nList of partial (non-loadable) snapshots on '{device}':\n")
            _answer_table(context, partial)


def _answer_table(context: Context, snapshots: list[dict[str, Any]]) -> None:
    context.answer("".join(f"{line}\n" for line in snapshot_table(snapshots)))


async def _stop(context: Context) -> bool:
    """Stop the guest; return whether it ran."""
    running: bool = (await context.query("query-status"))["running"]
    if running:
        await context.query("stop")
    return running


def _nodes(context: Context) -> Iterator[BlockNode]:
    """Yield the nodes of devices, and then those of the monitor that nobody uses."""
    seen: set[BlockNode] = set()
    for backend in context.layer.backends:
        if backend.node is not None and backend.node not in seen:
            seen.add(backend.node)
            yield backend.node
    for node in context.layer.graph.nodes.values():
        if node.monitor_owned and not node.parents:
            yield node


def _disks(context: Context) -> Iterator[BlockNode]:
    """Yield the nodes that belong to a snapshot."""
    return (node for node in _nodes(context) if not node.read_only)


def _disks_with_snapshots(context: Context) -> list[BlockNode]:
    disks = list(_disks(context))
    for node in disks:
        if not _can(node):
            raise QmpError(
                f"Device '{_name(context, node)}' is writable but does not support snapshots"
            )
    return disks


def _first(disks: list[BlockNode]) -> BlockNode:
    """Return the disk on which QEMU saves the state of the machine."""
    for node in disks:
        if _can(node):
            return node
    raise QmpError("no block device can store vmstate for snapshot")


def _can(node: BlockNode) -> bool:
    return node.driver.internal_snapshots is not None


def _of(node: BlockNode) -> InternalSnapshots:
    snapshots = node.driver.internal_snapshots
    assert snapshots is not None
    return snapshots


def _device(context: Context, node: BlockNode) -> str:
    backends = (backend for backend in context.layer.backends if backend.node is node)
    return next((backend.name for backend in backends if backend.name), "")


def _name(context: Context, node: BlockNode) -> str:
    return _device(context, node) or node.node_name


_TAG: Final = Word("name", "string")

COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "delvm": HmpCommand(delete, (_TAG,), "tag", "delete a snapshot of all disks"),
    "loadvm": HmpCommand(load, (_TAG,), "tag", "set all disks back to a snapshot"),
    "savevm": HmpCommand(
        save, (Word("name", optional=True),), "[tag]", "take a snapshot of all disks"
    ),
}
