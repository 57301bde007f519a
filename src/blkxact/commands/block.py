"""Commands that make, change and delete nodes.

QEMU's counterpart: ``qapi/block-core.json``; ``blockdev.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.driver_api import Permission
from blkxact.block_layer import BlockLayer
from blkxact.create_job import CreateJob
from blkxact.errors import QmpError
from blkxact.job_txn import JobTxn
from blkxact.qapi.block_core import BlockResize
from blkxact.qapi.blockdev import BlockdevCreate, BlockdevDel, BlockdevOptions
from blkxact.qapi.common import QapiModel

from .command import Command


async def blockdev_add(layer: BlockLayer, args: QapiModel) -> None:
    """blockdev-add."""
    await layer.blockdev.add(args.to_wire())


async def blockdev_del(layer: BlockLayer, args: BlockdevDel) -> None:
    """blockdev-del."""
    await layer.blockdev.delete(args.node_name)


async def blockdev_create(layer: BlockLayer, args: BlockdevCreate) -> None:
    """blockdev-create: a job, as in QEMU."""
    CreateJob(layer, args.job_id, JobTxn(trace=layer.trace), layer.blockdev, args.options).start()


async def block_resize(layer: BlockLayer, args: BlockResize) -> None:
    """block_resize; the length is in bytes."""
    node = layer.lookup(args.device, args.node_name)
    if args.size < 0:
        raise QmpError("Parameter 'size' expects a >0 size")
    if node.blockers.is_blocked(BlockOp.RESIZE):
        raise QmpError(f"Device '{args.device or args.node_name}' is in use")
    backend = BlockBackend(layer.graph, perm=Permission.RESIZE, shared=Permission.ALL)
    backend.insert(node)
    try:
        await backend.truncate(args.size)
    except OSError as error:
        raise QmpError(f"Failed to resize image: {error.strerror}") from error
    finally:
        backend.close()


COMMANDS: Final[list[Command]] = [
    Command("block_resize", block_resize, BlockResize),
    Command("blockdev-add", blockdev_add, BlockdevOptions),
    Command("blockdev-create", blockdev_create, BlockdevCreate),
    Command("blockdev-del", blockdev_del, BlockdevDel),
]
