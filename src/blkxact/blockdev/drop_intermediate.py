"""Taking the layers between two nodes of a chain out of it, and out of the headers above.

QEMU's counterpart: ``bdrv_drop_intermediate`` and ``bdrv_change_backing_file`` in ``block.c``.
"""

from __future__ import annotations

import errno
import logging

from blkxact.block.chain import skip_implicit_filters
from blkxact.block.drain import drained
from blkxact.block.graph_change import inherits_from
from blkxact.block.node import BlockNode
from blkxact.block.types import ChildRole
from blkxact.drivers import PROTOCOLS
from blkxact.errors import QmpError, os_error

from .blockdev import Blockdev

_log = logging.getLogger(__name__)


def backing_format(base: BlockNode, *, mask_protocol: bool) -> str:
    """Return what a header names as the format of ``base``.

    With ``mask_protocol`` that is ``raw`` where ``base`` is a protocol without a format.
    """
    name = base.driver.format_name
    return "raw" if mask_protocol and name in PROTOCOLS else name


async def drop_intermediate(
    blockdev: Blockdev,
    top: BlockNode,
    base: BlockNode,
    backing_file: str | None,
    *,
    mask_protocol: bool = False,
) -> None:
    """Give the parents of ``top`` the node ``base`` instead, which is below it.

    The headers of overlays name ``backing_file`` then, by default the name of ``base``, and
    ``backing_format(base)``. Raises ``QmpError``, or ``OSError`` from writing a header: the graph
    has changed by then, as in QEMU.
    """
    async with drained([top, base]):
        explicit_top = skip_implicit_filters(top)
        base_moves_up = inherits_from(base, explicit_top)
        name = base.filename if backing_file is None else backing_file
        fmt = backing_format(base, mask_protocol=mask_protocol)
        parents = list(top.parents)
        blockdev.graph.replace_node(top, base)
        for edge in parents:
            if edge.role & ChildRole.COW and isinstance(edge.parent, BlockNode):
                await update_backing_file(blockdev, edge.parent, name, fmt)
        if base_moves_up:
            base.inherits_from = explicit_top.inherits_from


async def update_backing_file(blockdev: Blockdev, node: BlockNode, name: str, fmt: str) -> None:
    """Write another backing file into the header of a node, which may be read-only.

    Raises ``QmpError`` and ``OSError``.
    """
    was_read_only = node.read_only
    if was_read_only:
        await blockdev.set_read_only(node, read_only=False)
    try:
        await change_backing_file(node, name, fmt)
    finally:
        if was_read_only:
            await restore_read_only(blockdev, node)


async def change_backing_file(node: BlockNode, name: str | None, fmt: str | None) -> None:
    """Write a backing file into the header of a node that can be written; raises ``OSError``."""
    try:
        await node.driver.set_backing_file(name, fmt)
    except QmpError as error:  # the header has no room for the name
        raise os_error(errno.EINVAL) from error
    node.backing_opened_as = None


async def restore_read_only(blockdev: Blockdev, node: BlockNode) -> None:
    """Make a node read-only again; if that fails it stays as it is."""
    try:
        await blockdev.set_read_only(node, read_only=True)
    except QmpError as error:
        _log.warning("node '%s' stays writable: %s", node.node_name, error)
