"""Commands that make, change and delete nodes.

QEMU's counterpart: ``qapi/block-core.json``; ``blockdev.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block.drain import drained
from blkxact.block.resize import resize
from blkxact.block.threads import check_move
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.block_core import (
    BlockdevSetIothread,
    BlockIOThrottle,
    BlockResize,
)
from blkxact.qapi.blockdev import BlockdevDel, BlockdevOptions, BlockdevOptionsBase
from blkxact.qapi.blockdev_create import BlockdevCreate, BlockdevCreateOptionsOther
from blkxact.runtime.throttle.limits import OLD_NAMES, ThrottleLimits

from .command import Command
from .medium import find_device


async def blockdev_add(layer: BlockLayer, args: BlockdevOptionsBase) -> None:
    """blockdev-add."""
    await layer.add_node(args)


async def blockdev_del(layer: BlockLayer, args: BlockdevDel) -> None:
    """blockdev-del."""
    await layer.blockdev.delete(args.node_name)


async def blockdev_create(layer: BlockLayer, args: BlockdevCreate) -> None:
    """blockdev-create: a job, as in QEMU."""
    from blkxact.blockdev.create_job import CreateJob  # noqa: PLC0415 - opening a node needs no job

    options = args.options
    if isinstance(options, BlockdevCreateOptionsOther):
        raise QmpError("Driver does not support blockdev-create")
    job_id = layer.check_job_id(args.job_id)
    CreateJob(layer, job_id, layer.own_transaction(), layer.blockdev, options).start()


async def block_resize(layer: BlockLayer, args: BlockResize) -> None:
    """block_resize; the length is in bytes."""
    node = layer.lookup(args.device, args.node_name)
    await resize(layer.graph, node, args.size)


def set_iothread(layer: BlockLayer, args: BlockdevSetIothread) -> None:
    """x-blockdev-set-iothread: checked, and then nothing to do, as one loop serves all nodes."""
    node = layer.graph.find(args.node_name)
    if node is None:
        raise QmpError(f"Failed to find node with node-name='{args.node_name}'")
    if not args.force and any(edge.parent.is_backend for edge in node.parents):
        raise QmpError(
            f"Node {args.node_name} is associated with a BlockBackend and could be in use "
            "(use force=true to override this check)"
        )
    if args.iothread is not None:
        thread = layer.objects.get(args.iothread)
        if thread is None or thread.qom_type != "iothread":
            raise QmpError(f"Cannot find iothread {args.iothread}")
    check_move(node, args.iothread)


async def set_io_throttle(layer: BlockLayer, args: BlockIOThrottle) -> None:
    """block_set_io_throttle: limits of a device's own, or of the group that it is put in."""
    backend = find_device(layer, args.device, args.id)
    if backend.node is None:
        raise QmpError("Device has no medium")
    given = args.to_wire()
    limits = ThrottleLimits().changed(
        {new: given[old] for old, new in OLD_NAMES.items() if old in given}
    )
    limits.check()
    old = backend.throttle
    if old is not None and (not limits.enabled or args.group not in (None, old.group.name)):
        async with drained([backend.node]):
            backend.set_throttle(None)
    if limits.enabled:
        if backend.throttle is None:
            name = args.group or args.device or args.id or ""
            backend.set_throttle(layer.throttle_groups.join(name))
        assert backend.throttle is not None
        backend.throttle.group.configure(limits)


COMMANDS: Final[list[Command]] = [
    Command("block_resize", block_resize, BlockResize),
    Command("block_set_io_throttle", set_io_throttle, BlockIOThrottle, system=True),
    Command("x-blockdev-set-iothread", set_iothread, BlockdevSetIothread),
    Command("blockdev-add", blockdev_add, BlockdevOptions, locked=False),
    Command("blockdev-create", blockdev_create, BlockdevCreate),
    Command("blockdev-del", blockdev_del, BlockdevDel),
]
