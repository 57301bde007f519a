"""What both kinds of commit need of the image that they write into, and of the layers above it.

QEMU's counterpart: ``block/commit.c`` (commit_start), ``block/mirror.c`` (mirror_start_job).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from typing import Protocol

from blkxact.block.chain import chain_nodes, find_overlay
from blkxact.block.node import BlockNode
from blkxact.block.types import Permission
from blkxact.errors import QmpError, os_error
from blkxact.job.block_job import BlockJob


class Base(Protocol):
    """The image that is committed into."""

    def truncate(self, length: int) -> Awaitable[None]:
        """Resize it; raises ``QmpError``."""


async def grow(base: Base, length: int) -> None:
    """Make the base as long as the top; raises ``OSError``: no text reaches the client."""
    try:
        await base.truncate(length)
    except QmpError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, OSError) else os_error(errno.ENOTSUP)) from error


def hold_intermediate_nodes(
    job: BlockJob, top: BlockNode, base: BlockNode, *, but: BlockNode | None = None
) -> None:
    """Hold the nodes from ``top`` down to ``base`` (exclusive), as they become inconsistent.

    ``but`` is one that the job holds already. Raises ``QmpError``.
    """
    overlay = find_overlay(top, base)
    assert overlay is not None
    # WRITE is shared, as what is blocked for a node is blocked for its backing file.
    shared = Permission.WRITE_UNCHANGED | Permission.WRITE
    for node in chain_nodes(top, base):
        if node is overlay.backing:
            shared |= Permission.CONSISTENT_READ  # only filters on the base follow
        if node is not but:
            job.hold("intermediate node", node, shared)
