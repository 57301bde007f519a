"""The commit job: writes what the layers above a base hold into the base, and drops them.

This is the commit of layers below the active one. Committing the active layer is a mirror of the
disk to its own backing file (``block/mirror.c``).

Invariants:

* While it runs, the chain below the filter ``commit_top`` is frozen, and nobody else reads a layer
  between top and base, as these are inconsistent once the base has changed.
* Only when everything is in the base are overlays linked to it; a job that fails leaves the chain.

QEMU's counterpart: ``commit_start`` and its job in ``block/commit.c``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import find_overlay, skip_filters
from blkxact.block.chain_copy import ChainCopy, size_of
from blkxact.block.copy_plan import Method
from blkxact.block.copy_sweep import may_go_on
from blkxact.block.drain import drained
from blkxact.block.insert_filter import open_filter
from blkxact.block.node import BlockNode
from blkxact.block.types import Permission
from blkxact.blockdev.blockdev import Blockdev
from blkxact.blockdev.drop_intermediate import drop_intermediate, restore_read_only
from blkxact.drivers.commit_top import CommitTopDriver
from blkxact.errors import QmpError, os_error
from blkxact.job.block_job import BlockJob
from blkxact.job.job import JobHost
from blkxact.job.txn import JobTxn
from blkxact.qapi.versions import COMMIT_UNMAPS_ZEROES, behaves

from .commit_base import grow, hold_intermediate_nodes
from .options import ChainJobOptions

_log = logging.getLogger(__name__)


class CommitJob(BlockJob):
    """Commits the layers from ``top`` down to ``base`` (exclusive) into ``base``."""

    type_name = "commit"

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        options: ChainJobOptions,
        *,
        blockdev: Blockdev,
        top: BlockNode,
        base: BlockNode,
    ) -> None:
        super().__init__(host, job_id, txn, options, graph=blockdev.graph)
        self.options = options
        self.blockdev = blockdev
        self.top = top
        self.base = base
        self._base_was_read_only = False
        self._frozen = False
        self._source: BlockBackend | None = None
        self._target: BlockBackend | None = None
        self._copy: ChainCopy | None = None

    # Beginning

    async def set_up(self, root: BlockNode) -> None:
        """Take the nodes; raises ``QmpError``. ``root`` is the top of the whole chain."""
        top, base, graph = self.top, self.base, self.graph
        needed = Permission.CONSISTENT_READ | Permission.WRITE
        if base.length < top.length:
            needed |= Permission.RESIZE
        self.hold("main node", root)
        if base.read_only:
            await self.blockdev.set_read_only(base, read_only=False)
            self._base_was_read_only = True
        await self._insert_filter()
        assert self.filter_node is not None
        hold_intermediate_nodes(self, top, base)
        graph.freeze_chain(self.filter_node, base)
        self._frozen = True
        self.hold("base", base)
        self._target = _backend(
            base, needed, Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED, self
        )
        self._source = _backend(top, Permission.NONE, Permission.ALL, self)

    async def _insert_filter(self) -> None:
        """Insert the filter above ``top``, so that nothing below it needs to share reads."""
        name = self.options.filter_node_name
        above = await open_filter(
            self.graph, CommitTopDriver, {"backing": self.top}, name, read_only=True
        )
        above.implicit = name is None
        above.never_freeze = True  # it can always be taken out
        try:
            async with drained([self.top]):
                self.graph.insert_filter(self.top, above)
        except BaseException:
            self.graph.unref(above)
            raise
        self.filter_node = above

    # Working

    async def run(self) -> None:
        """Write everything that is allocated above the base into it."""
        assert self._source is not None
        assert self._source.root is not None
        assert self._target is not None
        assert self._target.root is not None
        self.total_progress = self.top.length
        if self.base.length < self.top.length:
            await grow(self._target, self.top.length)
        unmap = behaves(COMMIT_UNMAPS_ZEROES, self.host.release)
        base = self._base_of_copy()
        self._copy = ChainCopy(self._source.root, self._target.root, base, unmap=unmap)
        await self.work_by_policy(self._copy_all)

    def _base_of_copy(self) -> BlockNode | None:
        """Return the first node below that is not copied: filters on the base are not asked."""
        overlay = find_overlay(self.top, self.base)
        assert overlay is not None
        return overlay.backing

    async def _copy_all(self) -> None:
        copy = self._copy
        assert copy is not None
        while copy.pieces.remaining:
            await may_go_on(self)
            piece = await copy.pieces.next_piece(limited=self.speed > 0)
            if piece[0].method is not Method.SKIP:
                self.account(size_of(piece))
            done = await copy.copy(piece)
            self.progressed(done, copy.pieces.remaining)
        await self.pause_point()  # a pause asked for during the last piece is obeyed

    # Ending

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the job settles."""
        return (self.base,) if self.filter_node is None else (self.filter_node,)

    async def finalize_prepare(self) -> None:
        """Link the overlays to the base; raises ``QmpError`` and ``OSError``."""
        assert self.filter_node is not None
        self._release_base()
        try:
            await drop_intermediate(
                self.blockdev,
                self.filter_node,
                self.base,
                self.options.backing_file,
                mask_protocol=self.options.mask_protocol,
            )
        except QmpError as error:  # its text goes to the log: the job reports an errno
            _log.warning("%s", error)
            raise os_error(errno.EIO) from error

    def abort(self) -> None:
        """Release the base; ``clean`` removes the filter."""
        self._release_base()

    def clean(self) -> None:
        """Release the nodes."""
        if self._source is not None:
            self._source.close()
        super().clean()

    async def restore(self) -> None:
        """Leave the base read-only if it was."""
        if self._base_was_read_only:
            await restore_read_only(self.blockdev, self.base)

    def _release_base(self) -> None:
        if self._frozen:
            assert self.filter_node is not None
            self.graph.unfreeze_chain(self.filter_node, self.base)
            self._frozen = False
        if self._target is not None:
            self._target.close()
            self._target = None


def _backend(node: BlockNode, perm: Permission, shared: Permission, job: BlockJob) -> BlockBackend:
    """Return a root for requests of the job; drains quiesce it."""
    backend = BlockBackend(job.graph, perm=perm, shared=shared)
    backend.insert(node)
    return backend


async def create_commit_job(
    host: JobHost,
    blockdev: Blockdev,
    job_id: str | None,
    txn: JobTxn,
    options: ChainJobOptions,
    *,
    root: BlockNode,
    top: BlockNode,
    base: BlockNode,
) -> CommitJob:
    """Create and start the job. Raises ``QmpError`` with everything as it was."""
    assert top is not root
    if skip_filters(top) is skip_filters(base):
        raise QmpError("Invalid files for merge: top and base are the same")
    name = host.name_job(job_id, root)
    job = CommitJob(host, name, txn, options, blockdev=blockdev, top=top, base=base)
    try:
        await job.set_up(root)
    except BaseException:
        async with drained([top]):
            await job.early_fail()
        await blockdev.graph.settled()
        raise
    job.start()
    return job
