"""Queries on nodes, devices and bitmaps.

QEMU's counterpart: ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.blockdev.info import block_info, device_info, stats
from blkxact.qapi.block_core import BlockDirtyBitmap, QueryBlockstats, QueryNamedBlockNodes
from blkxact.qapi.common import NoArguments
from blkxact.steps import in_turns

from .command import Command


def query_block(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-block: the guest's devices and the named drives."""
    del args
    return [block_info(backend) for backend in layer.backends]


def query_named_block_nodes(layer: BlockLayer, args: QueryNamedBlockNodes) -> list[dict[str, Any]]:
    """query-named-block-nodes: the latest first, as in QEMU."""
    nodes = reversed(layer.graph.nodes.values())
    return [device_info(node, flat=args.flat) for node in nodes if node.is_open]


def query_blockstats(layer: BlockLayer, args: QueryBlockstats) -> list[dict[str, Any]]:
    """query-blockstats."""
    if args.query_nodes:
        return [stats(node) for node in layer.graph.nodes.values() if node.is_open]
    result = []
    for backend in layer.backends:
        info = stats(backend.node) if backend.node is not None else {}
        if backend.accounting:
            info["stats"].update(backend.accounting)
        info["device"] = backend.name
        if backend.qdev_path:
            info["qdev"] = backend.qdev_path
        result.append(info)
    return result


async def bitmap_sha256(layer: BlockLayer, args: BlockDirtyBitmap) -> dict[str, str]:
    """x-debug-block-dirty-bitmap-sha256: of the bits as they are now, whatever is written next."""
    _, bitmap = layer.find_bitmap(args.node, args.name)
    return {"sha256": await in_turns(bitmap.copy().sha256_steps())}


COMMANDS: Final = [
    Command("query-block", query_block),
    Command("query-blockstats", query_blockstats, QueryBlockstats),
    Command("query-named-block-nodes", query_named_block_nodes, QueryNamedBlockNodes),
    Command("x-debug-block-dirty-bitmap-sha256", bitmap_sha256, BlockDirtyBitmap),
]
