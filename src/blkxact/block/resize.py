"""Changing the size of a disk, for both monitors.

QEMU's counterpart: qmp_block_resize() in ``blockdev.c``.
"""

from __future__ import annotations

from blkxact.errors import QmpError

from .backend import BlockBackend
from .blockers import BlockOp
from .graph import Graph
from .node import BlockNode
from .types import Permission


async def resize(graph: Graph, node: BlockNode, length: int) -> None:
    """Make the disk ``length`` bytes long. Raises ``QmpError``."""
    if length < 0:
        raise QmpError("Parameter 'size' expects a >0 size")
    node.check_operation(BlockOp.RESIZE)
    backend = BlockBackend(graph, perm=Permission.RESIZE, shared=Permission.ALL)
    backend.insert(node)
    try:
        await backend.truncate(length)
    except OSError as error:
        raise QmpError(f"Failed to resize image: {error.strerror}") from error
    finally:
        backend.close()
