"""Queries on nodes, devices and bitmaps.

QEMU's counterpart: ``qapi/block-core.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from blkxact.block.accounting import nanoseconds
from blkxact.block.backend import BlockBackend
from blkxact.block.node import BlockNode
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.info import Describer, Info, stats
from blkxact.qapi.block_core import (
    BlockDirtyBitmap,
    QueryBlock,
    QueryBlockstats,
    QueryNamedBlockNodes,
)
from blkxact.qmp.qdict import ordered
from blkxact.runtime.steps import Steps, in_turns

from .command import Command

T = TypeVar("T")


NODES_PER_STEP: Final = 64
"""Nodes or devices that are described before others get their turn."""


async def query_block(layer: BlockLayer, args: QueryBlock) -> list[dict[str, Any]]:
    """query-block: the guest's devices and the named drives."""
    describe = partial(Describer().block_info, flat=args.flat)
    return await in_turns(_each(list(layer.backends), describe))


async def query_named_block_nodes(
    layer: BlockLayer, args: QueryNamedBlockNodes
) -> list[dict[str, Any]]:
    """query-named-block-nodes: the latest first, as in QEMU."""
    describe = partial(Describer().device_info, flat=args.flat)
    return await in_turns(_each(_open_nodes(layer)[::-1], describe))


async def query_blockstats(layer: BlockLayer, args: QueryBlockstats) -> list[dict[str, Any]]:
    """query-blockstats: of the devices, or of each node without its backing file, as in QEMU."""
    if args.query_nodes:
        return await in_turns(_each(_open_nodes(layer), _node_stats))
    device_stats = partial(_device_stats, now=nanoseconds(layer.clock.monotonic()))
    return await in_turns(_each(list(layer.backends), device_stats))


def _open_nodes(layer: BlockLayer) -> list[BlockNode]:
    return [node for node in layer.graph.nodes.values() if node.is_open]


def _each(things: Sequence[T], describe: Callable[[T], Steps[Info]]) -> Steps[list[Info]]:
    """Return what ``describe`` returns for each; a node that was closed meanwhile is left out."""
    infos: list[Info] = []  # in order already: the whole at once would hold up others
    for number, thing in enumerate(things, 1):
        if not isinstance(thing, BlockNode) or thing.is_open:
            infos.append(ordered((yield from describe(thing))))
        if number % NODES_PER_STEP == 0:
            yield
    return infos


def _node_stats(node: BlockNode) -> Steps[Info]:
    yield from ()
    return stats(node, backing=False)


def _device_stats(backend: BlockBackend, *, now: int) -> Steps[Info]:
    yield from ()
    info = stats(backend.node)
    info["stats"].update(backend.accounting.describe(now))
    info["device"] = backend.name
    if backend.qdev_path:
        info["qdev"] = backend.qdev_path
    return info


async def bitmap_sha256(layer: BlockLayer, args: BlockDirtyBitmap) -> dict[str, str]:
    """x-debug-block-dirty-bitmap-sha256: of the bits as they are now, whatever is written next."""
    _, bitmap = layer.find_bitmap(args.node, args.name)
    return {"sha256": await in_turns(bitmap.copy().sha256_steps())}


COMMANDS: Final = [
    Command("query-block", query_block, QueryBlock),
    Command("query-blockstats", query_blockstats, QueryBlockstats),
    Command("query-named-block-nodes", query_named_block_nodes, QueryNamedBlockNodes),
    Command("x-debug-block-dirty-bitmap-sha256", bitmap_sha256, BlockDirtyBitmap),
]
