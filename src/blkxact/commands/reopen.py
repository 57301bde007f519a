"""``blockdev-reopen``: other options for nodes that are in use; see ``blockdev/reopen.py``.

QEMU's counterpart: qmp_blockdev_reopen() in ``blockdev.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block_layer import BlockLayer
from blkxact.qapi.blockdev import BlockdevReopen

from .command import Command


async def blockdev_reopen(layer: BlockLayer, args: BlockdevReopen) -> None:
    """blockdev-reopen."""
    await layer.blockdev.reopen([one.to_wire() for one in args.options])
    await layer.close_unused_nodes()


COMMANDS: Final = [Command("blockdev-reopen", blockdev_reopen, BlockdevReopen)]
