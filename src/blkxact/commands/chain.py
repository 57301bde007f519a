"""Commands that shorten backing chains: block-commit, block-stream, change-backing-file.

QEMU's counterpart: ``qapi/block-core.json``; ``blockdev.c`` (qmp_block_commit, qmp_block_stream,
qmp_change_backing_file).
"""

from __future__ import annotations

from typing import Final

from blkxact.block.blockers import BlockOp
from blkxact.block.chain import chain_nodes, find_overlay, next_layer, skip_filters
from blkxact.block.find_backing import find_backing_image
from blkxact.block.node import BlockNode
from blkxact.block.permissions import cumulative_permissions
from blkxact.block.types import Permission
from blkxact.block_jobs.commit import create_commit_job
from blkxact.block_jobs.mirror.create import check_buf_size, start_mirror
from blkxact.block_jobs.mirror.options import MirrorOptions
from blkxact.block_jobs.options import ChainJobOptions
from blkxact.block_jobs.stream import StreamChain, create_stream_job
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.drop_intermediate import change_backing_file, restore_read_only
from blkxact.dirty.granules import default_granularity
from blkxact.errors import ErrorClass, QmpError, strerror
from blkxact.qapi.block_core import ChangeBackingFile
from blkxact.qapi.block_jobs import BlockCommit, BlockStream

from .command import Command

# block-commit


async def block_commit(layer: BlockLayer, args: BlockCommit) -> None:
    """block-commit."""
    root = _find_commit_root(layer, args.device)
    root.check_operation(BlockOp.COMMIT_SOURCE)
    top = _find_top(layer, root, args)
    base = _find_base(layer, top, args)
    for node in chain_nodes(top, next_layer(base)):
        node.check_operation(BlockOp.COMMIT_TARGET)
    if top is base:
        raise QmpError("cannot commit an image into itself")
    is_active = skip_filters(top) is skip_filters(root)
    perm, _ = cumulative_permissions(top)
    if is_active or perm & Permission.WRITE:
        if args.backing_file is not None:
            reason = "'top' is the active layer" if is_active else "'top' has a writer on it"
            raise QmpError(f"'backing-file' specified, but {reason}")
        await _commit_active(layer, args, root, top, base)
        return
    overlay = find_overlay(root, top)
    assert overlay is not None
    overlay.check_operation(BlockOp.COMMIT_TARGET)
    txn = layer.own_transaction()
    await create_commit_job(
        layer, layer.blockdev, args.job_id, txn, _options(args), root=root, top=top, base=base
    )


def _options(args: BlockCommit | BlockStream) -> ChainJobOptions:
    return ChainJobOptions(
        on_source_error=args.on_error,
        on_target_error=args.on_error,
        speed=args.speed,
        backing_file=args.backing_file,
        mask_protocol=args.backing_mask_protocol,
        filter_node_name=args.filter_node_name,
        auto_finalize=args.auto_finalize,
        auto_dismiss=args.auto_dismiss,
    )


async def _commit_active(
    layer: BlockLayer, args: BlockCommit, root: BlockNode, top: BlockNode, base: BlockNode
) -> None:
    """Start a mirror of ``top`` to ``base``, whose job is named after ``root``."""
    granularity = default_granularity(base.driver.cluster_size)
    was_read_only = base.read_only
    options = MirrorOptions(
        granularity=granularity,
        buf_size=check_buf_size(0, granularity),
        base=base,
        base_was_read_only=was_read_only,
        filter_node_name=args.filter_node_name,
        speed=args.speed,
        on_source_error=args.on_error,
        on_target_error=args.on_error,
        auto_finalize=args.auto_finalize,
        auto_dismiss=args.auto_dismiss,
    )
    job_id = root.root_device_name if args.job_id is None else args.job_id
    await layer.blockdev.set_read_only(base, read_only=False)
    try:
        txn = layer.own_transaction()
        await start_mirror(layer, layer.blockdev, job_id, txn, options, source=top, target=base)
    except QmpError:
        if was_read_only:
            await restore_read_only(layer.blockdev, base)
        raise


def _find_commit_root(layer: BlockLayer, device: str) -> BlockNode:
    try:
        return layer.find_root(device)
    except QmpError:
        try:
            layer.find_node(device)
        except QmpError:
            # libvirt probes for features by this class, without any optional argument.
            raise QmpError(f"Device '{device}' not found", ErrorClass.DEVICE_NOT_FOUND) from None
        raise


def _find_top(layer: BlockLayer, root: BlockNode, args: BlockCommit) -> BlockNode:
    """Return the top of what is committed; the active layer by default."""
    if args.top_node is not None and args.top is not None:
        raise QmpError("'top-node' and 'top' are mutually exclusive")
    if args.top_node is not None:
        return _find_in_chain(layer, root, args.top_node)
    if args.top is None or args.top == root.filename:
        return root
    top = find_backing_image(root, args.top)
    if top is None:
        raise QmpError(f"Top image file {args.top} not found")
    return top


def _find_base(layer: BlockLayer, top: BlockNode, args: BlockCommit) -> BlockNode:
    """Return the node that is committed into; the last one of the chain by default."""
    if args.base_node is not None and args.base is not None:
        raise QmpError("'base-node' and 'base' are mutually exclusive")
    if args.base_node is not None:
        return _find_in_chain(layer, top, args.base_node)
    if args.base is not None:
        base = find_backing_image(top, args.base)
        if base is None:
            raise QmpError(f"Can't find '{args.base}' in the backing chain")
        return base
    base = find_overlay(top, None)
    if base is None:
        raise QmpError("There is no backimg image")
    return base


def _find_in_chain(layer: BlockLayer, top: BlockNode, name: str) -> BlockNode:
    node = layer.lookup(None, name)
    if node not in chain_nodes(top):
        raise QmpError(f"'{name}' is not in this backing file chain")
    return node


# block-stream


async def block_stream(layer: BlockLayer, args: BlockStream) -> None:
    """block-stream."""
    for given, other in (("base", "base_node"), ("base", "bottom"), ("bottom", "base_node")):
        if getattr(args, given) is not None and getattr(args, other) is not None:
            name = other.replace("_", "-")
            raise QmpError(f"'{given}' and '{name}' cannot be specified at the same time")
    node = layer.find_node(args.device)
    base = _find_stream_base(layer, node, args)
    bottom = _find_bottom(layer, node, args)
    for one in chain_nodes(node, base if bottom is None else next_layer(bottom)):
        one.check_operation(BlockOp.STREAM)
    if base is None and args.backing_file is not None:
        raise QmpError("backing file specified, but streaming the entire chain")
    if bottom is not None:
        chain = StreamChain.down_to(node, bottom)
    else:
        chain = StreamChain.above(node, base)
    txn = layer.own_transaction()
    await create_stream_job(
        layer, layer.blockdev, args.job_id, txn, options=_options(args), chain=chain
    )


def _find_stream_base(layer: BlockLayer, node: BlockNode, args: BlockStream) -> BlockNode | None:
    if args.base is not None:
        base = find_backing_image(node, args.base)
        if base is None:
            raise QmpError(f"Can't find '{args.base}' in the backing chain")
        return base
    if args.base_node is None:
        return None
    base = layer.lookup(None, args.base_node)
    if base is node or base not in chain_nodes(node):
        raise QmpError(f"Node '{args.base_node}' is not a backing image of '{args.device}'")
    return base


def _find_bottom(layer: BlockLayer, node: BlockNode, args: BlockStream) -> BlockNode | None:
    if args.bottom is None:
        return None
    bottom = layer.lookup(None, args.bottom)
    if bottom.driver.is_filter:
        raise QmpError(f"Node '{args.bottom}' is a filter, use a non-filter node as 'bottom'")
    if bottom not in chain_nodes(node):
        raise QmpError(f"Node '{args.bottom}' is not in a chain starting from '{args.device}'")
    return bottom


# change-backing-file


async def change_backing_file_command(layer: BlockLayer, args: ChangeBackingFile) -> None:
    """change-backing-file: only what the header says changes, not the graph."""
    top = layer.find_root(args.device)
    image = layer.lookup(None, args.image_node_name)
    if find_overlay(image, None) is image:
        raise QmpError("not allowing backing file change on an image without a backing file")
    top.check_operation(BlockOp.CHANGE)
    if image not in chain_nodes(top):
        raise QmpError(f"'{args.device}' and image file are not in the same chain")
    was_read_only = image.read_only
    await layer.blockdev.set_read_only(image, read_only=False)
    try:
        await change_backing_file(image, args.backing_file, image.driver.format_name)
    except OSError as error:
        raise QmpError(
            f"Could not change backing file to '{args.backing_file}': {strerror(error)}"
        ) from error
    finally:
        await layer.blockdev.set_read_only(image, read_only=was_read_only)


COMMANDS: Final[list[Command]] = [
    Command("block-commit", block_commit, BlockCommit),
    Command("block-stream", block_stream, BlockStream),
    Command("change-backing-file", change_backing_file_command, ChangeBackingFile),
]
