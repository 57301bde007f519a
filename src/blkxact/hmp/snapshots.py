"""``savevm``, ``loadvm``, ``delvm``, ``info snapshots``.

The work is that of ``machine/vm_snapshots.py``.

QEMU's counterpart: ``migration/migration-hmp-cmds.c``, hmp_info_snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.block.chain import can_snapshot, snapshots_of
from blkxact.block.internal_snapshots import describe_snapshot, find_snapshot
from blkxact.block.node import BlockNode
from blkxact.block.snapshot_table import snapshot_table
from blkxact.errors import QmpError
from blkxact.machine import vm_snapshots
from blkxact.machine.vm_snapshots import check_vmstate
from blkxact.qapi.versions import SNAPSHOT_COLUMNS_APART, behaves

from .command import HmpCommand
from .command_line import Word
from .host import Context


async def save(context: Context, arguments: Mapping[str, Any]) -> None:
    """``savevm``: take a snapshot; one of that name is replaced."""
    await vm_snapshots.save(context.layer, arguments.get("name"), replace=True)


async def load(context: Context, arguments: Mapping[str, Any]) -> None:
    """``loadvm``: set all disks back to a snapshot; after a failure the guest stays stopped."""
    await vm_snapshots.load(context.layer, arguments["name"])


async def delete(context: Context, arguments: Mapping[str, Any]) -> None:
    """``delvm``: forget the snapshots of that name."""
    await vm_snapshots.delete(context.layer, arguments["name"])


async def info(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info snapshots``: those that all disks have, and those that only some have."""
    del arguments
    disks = list(vm_snapshots.disks(context.layer))
    able = [node for node in vm_snapshots.roots(context.layer) if can_snapshot(node)]
    try:
        check_vmstate(able, None)
    except QmpError as error:
        context.answer_error(error)
        return
    entries = {node: _described(node) for node in able}
    if not any(entries.values()):
        context.answer("There is no snapshot available.\n")
        return
    everywhere = [
        each for each in entries[able[0]] if all(_has(node, each["name"]) for node in disks)
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


def _described(node: BlockNode) -> list[dict[str, Any]]:
    snapshots = snapshots_of(node)
    return [describe_snapshot(each) for each in snapshots.entries] if snapshots else []


def _has(node: BlockNode, name: str) -> bool:
    snapshots = snapshots_of(node)
    return snapshots is not None and find_snapshot(snapshots, name=name) is not None


def _answer_table(context: Context, snapshots: list[dict[str, Any]]) -> None:
    apart = behaves(SNAPSHOT_COLUMNS_APART, context.layer.release)
    context.answer("".join(f"{line}\n" for line in snapshot_table(snapshots, apart=apart)))


def _device(context: Context, node: BlockNode) -> str:
    backends = (backend for backend in context.layer.backends if backend.node is node)
    return next((backend.name for backend in backends if backend.name), "")


_TAG: Final = Word("name", "string")

COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "delvm": HmpCommand(delete, (_TAG,), "tag", "delete a snapshot of all disks"),
    "loadvm": HmpCommand(load, (_TAG,), "tag", "set all disks back to a snapshot"),
    "savevm": HmpCommand(
        save, (Word("name", optional=True),), "[tag]", "take a snapshot of all disks"
    ),
}
