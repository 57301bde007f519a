"""The end of a mirror in the graph: the target gets its backing file and takes its place.

Everything here happens while the source is drained, and after the job has let go of both nodes.

QEMU's counterpart: mirror_exit_common() in ``block/mirror.c``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from blkxact.block.chain import skip_filters
from blkxact.block.drain import drained
from blkxact.block.node import BlockNode
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError, os_error

from .options import BackingMode, MirrorOptions

_log = logging.getLogger(__name__)

BLOCKER = "block device is in use by block-job-complete"


class Pivot:
    """Puts the target of a mirror into its place."""

    def __init__(self, blockdev: Blockdev, options: MirrorOptions) -> None:
        self._blockdev = blockdev
        self._graph = blockdev.graph
        self._options = options
        self._replaced: BlockNode | None = None
        """The node named by ``replaces``, which is held."""
        self._kept: list[BlockNode] = []

    def find_replaced(self) -> None:
        """Find the node that ``replaces`` names and hold it; raises ``QmpError``."""
        name = self._options.replaces
        if name is None or self._replaced is not None:
            return
        node = self._graph.find(name)
        if node is None:
            raise QmpError(f"Node name '{name}' not found")
        node.blockers.block_all(BLOCKER)
        self._replaced = self._graph.ref(node)

    async def make(self, top: BlockNode, target: BlockNode, *, complete: bool) -> bool:
        """Give the target its backing file and, with ``complete``, the parents of the source.

        In that case ``top``, the filter, is taken out; returns whether it was. Raises ``OSError``:
        no text reaches the client.
        """
        source = top.filtered
        assert source is not None
        self._kept = [self._graph.ref(node) for node in (source, target)]
        # A backing file that cannot be opened is EINVAL, as in QEMU's bdrv_open_backing_file().
        opens = self._options.backing_mode is BackingMode.OPEN_CHAIN
        with _reported_as(errno.EINVAL if opens else errno.EPERM):
            await self._give_backing(source, skip_filters(target))
        if complete:
            with _reported_as(errno.EPERM):
                await self._replace(top, source, target)
        return complete

    def clean(self) -> None:
        """Let go of the nodes."""
        if self._replaced is not None:
            self._replaced.blockers.unblock_all(BLOCKER)
            self._kept.append(self._replaced)
            self._replaced = None
        for node in self._kept:
            self._graph.unref(node)
        self._kept.clear()

    async def _give_backing(self, source: BlockNode, image: BlockNode) -> None:
        options = self._options
        if options.backing_mode is BackingMode.SOURCE_CHAIN:
            backing = source if options.none else options.base
            if image.backing is not backing:
                async with drained([image]):
                    self._graph.set_backing(image, backing)
        elif options.backing_mode is BackingMode.OPEN_CHAIN:
            await self._blockdev.open_backing(image)

    async def _replace(self, top: BlockNode, source: BlockNode, target: BlockNode) -> None:
        old = self._replaced or source
        if old.read_only != target.read_only:
            try:
                await self._blockdev.set_read_only(target, old.read_only)
            except QmpError as error:
                _log.warning("%s", error.desc)
        if not can_replace(source, old):
            raise QmpError(
                f"Can no longer replace '{old.node_name}' by '{target.node_name}', because it can "
                "no longer be guaranteed that doing so would not lead to an abrupt change of "
                "visible data"
            )
        async with drained([old, target]):
            self._graph.remove_filter(top, (old, target))


@contextmanager
def _reported_as(number: int) -> Iterator[None]:
    """Log a ``QmpError``, and raise it as this error of a request."""
    try:
        yield
    except QmpError as error:
        _log.warning("%s", error.desc)
        raise os_error(number) from error


def can_replace(node: BlockNode, old: BlockNode) -> bool:
    """Return whether ``old`` shows the same data as ``node`` (bdrv_recurse_can_replace)."""
    layer: BlockNode | None = node
    while layer is not None:
        if layer is old or layer.driver.may_replace_child(old):
            return True
        layer = layer.filtered
    return False
