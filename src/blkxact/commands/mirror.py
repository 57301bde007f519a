"""Commands that start mirrors: blockdev-mirror and drive-mirror.

QEMU's counterpart: ``qapi/block-core.json``; ``blockdev.c`` (qmp_blockdev_mirror,
qmp_drive_mirror).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blkxact.block.blockers import BlockOp
from blkxact.block.chain import backing_chain_next, skip_filters, skip_implicit_filters
from blkxact.block.node import BlockNode
from blkxact.block_jobs.mirror.create import check_buf_size, start_mirror
from blkxact.block_jobs.mirror.options import BackingMode, MirrorOptions
from blkxact.block_jobs.mirror.pivot import can_replace
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.image_create import create_image
from blkxact.dirty.granules import default_granularity
from blkxact.enums import MirrorCopyMode, MirrorSyncMode, NewImageMode
from blkxact.errors import QmpError
from blkxact.qapi.block_jobs import BlockdevMirror, DriveMirror

from .command import Command

MIN_GRANULARITY: Final = 512
MAX_GRANULARITY: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class _Start:
    """What the two commands do differently."""

    sync: MirrorSyncMode
    target_is_zero: bool
    backing_mode: BackingMode = BackingMode.LEAVE
    unmap: bool = True
    filter_node_name: str | None = None


async def blockdev_mirror(layer: BlockLayer, args: BlockdevMirror) -> None:
    """blockdev-mirror."""
    source = layer.find_root(args.device)
    target = layer.find_node(args.target)
    start = _Start(args.sync, args.target_is_zero, filter_node_name=args.filter_node_name)
    await _mirror(layer, args, source, target, start)


async def drive_mirror(layer: BlockLayer, args: DriveMirror) -> None:
    """drive-mirror: creates its target, unless ``mode`` is ``existing``."""
    source = layer.find_root(args.device)
    source.check_operation(BlockOp.MIRROR_SOURCE)
    existing = args.mode is NewImageMode.EXISTING
    image_format = args.format or (None if existing else source.driver.format_name)
    sync = args.sync
    if sync is MirrorSyncMode.TOP and skip_filters(source).backing is None:
        sync = MirrorSyncMode.FULL
    if args.replaces is not None and args.node_name is None:
        raise QmpError("a node-name must be provided when replacing a named node of the graph")
    reads_zeroes = False
    if not existing:
        assert image_format is not None
        reads_zeroes = await _create_target(layer, args.target, image_format, source, sync)
    target = await layer.blockdev.open_image(
        args.target,
        {} if args.node_name is None else {"node-name": args.node_name},
        image_format,
        inherited=source.common.flags(read_only=False),
        backing=False,
    )
    start = _Start(
        sync,
        # An overlay is blank too, but its backing file will show through.
        target_is_zero=sync is MirrorSyncMode.FULL and reads_zeroes,
        backing_mode=BackingMode.OPEN_CHAIN if existing else BackingMode.SOURCE_CHAIN,
        unmap=args.unmap,
    )
    layer.graph.ref(target)
    try:
        await _mirror(layer, args, source, target, start)
    finally:
        layer.graph.unref(target)
        await layer.close_unused_nodes()


async def _create_target(
    layer: BlockLayer, path: str, image_format: str, source: BlockNode, sync: MirrorSyncMode
) -> bool:
    """Make the image, with the backing file that it is to have; return whether it reads zeroes."""
    backing = None
    if sync is MirrorSyncMode.NONE:
        backing = source
    elif sync is not MirrorSyncMode.FULL:
        backing = skip_filters(source).backing
    return await create_image(
        layer.blockdev,
        path,
        image_format,
        size=source.length,
        backing=None if backing is None else skip_implicit_filters(backing),
        report=layer.guest.print,
    )


async def _mirror(
    layer: BlockLayer,
    args: BlockdevMirror | DriveMirror,
    source: BlockNode,
    target: BlockNode,
    start: _Start,
) -> None:
    """Check what both commands have in common, and start the job (blockdev_mirror_common)."""
    _check_granularity(args.granularity or 0)
    source.check_operation(BlockOp.MIRROR_SOURCE)
    target.check_operation(BlockOp.MIRROR_TARGET)
    replaces = _find_replaces(layer, source, args.replaces)
    if start.sync in (MirrorSyncMode.INCREMENTAL, MirrorSyncMode.BITMAP):
        raise QmpError(f"Sync mode '{start.sync}' not supported")
    granularity = args.granularity or default_granularity(target.driver.cluster_size)
    options = MirrorOptions(
        granularity=granularity,
        buf_size=check_buf_size(args.buf_size or 0, granularity),
        none=start.sync is MirrorSyncMode.NONE,
        base=backing_chain_next(source) if start.sync is MirrorSyncMode.TOP else None,
        backing_mode=start.backing_mode,
        full=start.sync is MirrorSyncMode.FULL,
        target_is_zero=start.target_is_zero,
        replaces=replaces,
        unmap=start.unmap,
        write_blocking=args.copy_mode is MirrorCopyMode.WRITE_BLOCKING,
        filter_node_name=start.filter_node_name,
        speed=args.speed,
        on_source_error=args.on_source_error,
        on_target_error=args.on_target_error,
        auto_finalize=args.auto_finalize,
        auto_dismiss=args.auto_dismiss,
    )
    txn = layer.own_transaction()
    await start_mirror(
        layer, layer.blockdev, args.job_id, txn, options, source=source, target=target
    )


def _check_granularity(granularity: int) -> None:
    if granularity and not MIN_GRANULARITY <= granularity <= MAX_GRANULARITY:
        raise QmpError("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if granularity & (granularity - 1):
        raise QmpError("Parameter 'granularity' expects a power of 2")


def _find_replaces(layer: BlockLayer, source: BlockNode, name: str | None) -> str | None:
    """Return the name of the node that the target is to replace; None: the source.

    Raises ``QmpError``.
    """
    if name is None:
        # Filters that jobs have put above the node stay where they are.
        node = skip_implicit_filters(source)
        if node is source:
            return None
        name = node.node_name
    found = layer.graph.find(name)
    if found is None:
        raise QmpError(f"Failed to find node with node-name='{name}'")
    found.check_operation(BlockOp.REPLACE)
    if not can_replace(source, found):
        raise QmpError(
            f"Cannot replace '{name}' by a node mirrored from '{source.node_name}', because it "
            "cannot be guaranteed that doing so would not lead to an abrupt change of visible data"
        )
    if found.length != source.length:
        raise QmpError("cannot replace image with a mirror image of different size")
    return name


COMMANDS: Final[list[Command]] = [
    Command("blockdev-mirror", blockdev_mirror, BlockdevMirror),
    Command("drive-mirror", drive_mirror, DriveMirror),
]
