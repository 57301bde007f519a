"""Snapshots of the machine, which are those of its disks at one point in time.

There is no machine whose state could be saved: the snapshots say that its state is of 0 bytes, and
QEMU refuses to load it. ``load`` sets the disks back to a snapshot of any program.

Invariant: a snapshot is taken on all disks or on none.

QEMU's counterpart: ``migration/savevm.c``, ``bdrv_all_*`` in ``block/snapshot.c``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from blkxact.block.chain import can_snapshot, snapshots_of
from blkxact.block.drain import drained
from blkxact.block.internal_snapshots import (
    InternalSnapshot,
    InternalSnapshots,
    find_by_id_or_name,
    find_snapshot,
)
from blkxact.block.node import BlockNode
from blkxact.errors import QmpError, strerror
from blkxact.job.job import Job, JobHost

from .machine import RunState, close_trays

if TYPE_CHECKING:
    from blkxact.block.backend import BlockBackend
    from blkxact.block.graph import Graph
    from blkxact.job.txn import JobTxn
    from blkxact.runtime.clock import Clock

    from .machine import Machine

_US_PER_S: Final = 1_000_000


class SnapshotHost(Protocol):
    """What is needed of the emulator."""

    clock: Clock
    backends: list[BlockBackend]
    machine: Machine

    @property
    def graph(self) -> Graph:
        """The nodes."""

    async def flush_all(self) -> None:
        """Flush every disk."""


# The disks. ``devices`` are names of nodes; None: all disks that a guest could change.


def disks(host: SnapshotHost) -> Iterator[BlockNode]:
    """Yield the nodes that belong to a snapshot unless others are named."""
    return (node for node in roots(host) if not node.read_only)


def roots(host: SnapshotHost) -> Iterator[BlockNode]:
    """Yield the nodes of devices and of exports, and those of the monitor that nobody uses."""
    seen: set[BlockNode] = set()
    for backend in host.backends:
        if backend.node is not None and backend.node not in seen:
            seen.add(backend.node)
            yield backend.node
    nodes = list(host.graph.nodes.values())
    for node in nodes:
        if node not in seen and any(edge.parent.is_backend for edge in node.parents):
            seen.add(node)
            yield node
    for node in nodes:
        if node.monitor_owned and not node.parents:
            yield node


def check_vmstate(nodes: Sequence[BlockNode], vmstate: str | None) -> None:
    """Raise ``QmpError`` unless one of the nodes, or that of this name, could keep the state."""
    if vmstate is None and not nodes:
        raise QmpError("no block device can store vmstate for snapshot")
    if vmstate is not None and all(node.node_name != vmstate for node in nodes):
        raise QmpError(f"vmstate block device '{vmstate}' does not exist")


def _chosen(host: SnapshotHost, devices: Sequence[str] | None) -> list[BlockNode]:
    """Return the disks, all of which can have snapshots; raises ``QmpError``."""
    nodes = list(disks(host)) if devices is None else _named(host, devices)
    for node in nodes:
        if not can_snapshot(node):
            name = node.device_or_node_name
            raise QmpError(f"Device '{name}' is writable but does not support snapshots")
    return nodes


def _named(host: SnapshotHost, devices: Sequence[str]) -> list[BlockNode]:
    if not devices:
        raise QmpError("At least one device is required for snapshot")
    nodes = []
    for name in devices:
        node = host.graph.find(name)
        if node is None:
            raise QmpError(f"No block device node '{name}'")
        nodes.append(node)
    return nodes


def _of(node: BlockNode) -> InternalSnapshots:
    snapshots = snapshots_of(node)
    assert snapshots is not None
    return snapshots


# What is done with them.


async def save(
    host: SnapshotHost,
    name: str | None,
    *,
    devices: Sequence[str] | None = None,
    vmstate: str | None = None,
    replace: bool = False,
) -> None:
    """Take a snapshot; without a name it is named after the time. Raises ``QmpError``.

    ``replace`` one of that name; if not, no snapshot may have it on all disks.
    """
    date_us = host.clock.realtime_us()
    nodes = _chosen(host, devices)
    if name is None:
        name = time.strftime("vm-%Y%m%d%H%M%S", time.localtime(date_us // _US_PER_S))
    elif replace:
        await _delete(nodes, name)
    elif _all_have(nodes, name):
        raise QmpError(f"Snapshot '{name}' already exists in one or more devices")
    check_vmstate(nodes, vmstate)
    running = await _stop(host, RunState.SAVE_VM)
    try:
        async with drained(nodes):
            await _take(nodes, name, date_us)
    finally:
        if running:
            host.machine.cont()


async def load(
    host: SnapshotHost,
    name: str,
    *,
    devices: Sequence[str] | None = None,
    vmstate: str | None = None,
) -> None:
    """Set all disks back to a snapshot. Raises ``QmpError``: the guest stays stopped then."""
    running = await _stop(host, RunState.RESTORE_VM)
    nodes = _chosen(host, devices)
    if not _all_have(nodes, name):
        raise QmpError(f"Snapshot '{name}' does not exist in one or more devices")
    check_vmstate(nodes, vmstate)
    async with drained(nodes):
        for node in nodes:
            await _apply(node, name)
    close_trays(host.backends)
    if running:
        host.machine.cont()


async def delete(host: SnapshotHost, name: str, *, devices: Sequence[str] | None = None) -> None:
    """Forget the snapshots of that name. Raises ``QmpError``."""
    await _delete(_chosen(host, devices), name)


def _all_have(nodes: Sequence[BlockNode], name: str) -> bool:
    return all(find_snapshot(_of(node), name=name) is not None for node in nodes)


async def _stop(host: SnapshotHost, state: RunState) -> bool:
    """Stop the guest; return whether it ran."""
    running = host.machine.running
    host.machine.stop(state)
    await host.flush_all()
    return running


async def _take(nodes: Sequence[BlockNode], name: str, date_us: int) -> None:
    taken: list[tuple[InternalSnapshots, InternalSnapshot]] = []
    for node in nodes:
        snapshots = _of(node)
        try:
            await node.flush()
            taken.append((snapshots, await snapshots.create(name, date_us=date_us)))
        except OSError as error:
            for done, snapshot in taken:
                await done.delete(snapshot)
            where = node.device_or_node_name
            raise QmpError(f"Could not create snapshot '{name}' on '{where}'") from error


async def _apply(node: BlockNode, name: str) -> None:
    refusal = f"Could not load snapshot '{name}' on '{node.device_or_node_name}'"
    if node.bitmaps or node.job_bitmaps or node.shown_bitmaps:
        raise QmpError(f"{refusal}: Device has active dirty bitmaps")
    snapshot = find_by_id_or_name(_of(node), name)
    try:
        if snapshot is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # noqa: TRY301
        await _of(node).apply(snapshot)
    except OSError as error:
        raise QmpError(f"{refusal}: Failed to load snapshot: {strerror(error)}") from error


async def _delete(nodes: Sequence[BlockNode], name: str) -> None:
    for node in nodes:
        snapshot = find_snapshot(_of(node), name=name)
        if snapshot is None:
            continue
        try:
            async with drained([node]):
                await _of(node).delete(snapshot)
        except OSError as error:
            raise QmpError(
                f"Could not delete snapshot '{name}' on '{node.device_or_node_name}': "
                f"Failed to remove snapshot from snapshot list: {strerror(error)}"
            ) from error


# The same as jobs.


class SnapshotJob(Job):
    """Does ``work`` as a command would: one at a time. It is dismissed by the client."""

    def __init__(
        self, host: JobHost, job_id: str, txn: JobTxn, work: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(host, job_id, txn, auto_dismiss=False)
        self._work = work

    async def run(self) -> None:
        """Work; raises ``QmpError``."""
        self.total_progress = 1
        async with self.host.ending():
            try:
                await self._work()
            finally:
                self.current_progress = 1


class SaveJob(SnapshotJob):
    """The job of ``snapshot-save``."""

    type_name = "snapshot-save"


class LoadJob(SnapshotJob):
    """The job of ``snapshot-load``."""

    type_name = "snapshot-load"


class DeleteJob(SnapshotJob):
    """The job of ``snapshot-delete``."""

    type_name = "snapshot-delete"
