"""The stream job: copies what backing files hold into the image above them, and drops these files.

A ``copy-on-read`` filter above the image freezes the chain and lets the guest's writes and the
job's copies of one range wait for each other.

Invariants:

* Only what is allocated in the layers that will be dropped is copied.
* The image is linked to its new backing file only when everything was copied. After an error that
  was ignored it keeps its old one.

QEMU's counterpart: ``block/stream.c``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import chain_nodes, find_overlay, next_layer, skip_filters
from blkxact.block.chain_copy import CHUNK, WINDOW, Pieces, size_of
from blkxact.block.child import Child
from blkxact.block.copy_on_read import is_below, populate, segment_of
from blkxact.block.copy_parts import reading
from blkxact.block.copy_plan import Method, Segment
from blkxact.block.copy_sweep import may_go_on
from blkxact.block.drain import drained
from blkxact.block.insert_filter import drop_filter, insert_filter
from blkxact.block.node import BlockNode
from blkxact.block.open_context import OpenContext
from blkxact.block.types import Permission
from blkxact.blockdev.blockdev import Blockdev
from blkxact.blockdev.drop_intermediate import (
    backing_format,
    change_backing_file,
    restore_read_only,
)
from blkxact.drivers.copy_on_read import CopyOnReadDriver
from blkxact.enums import BlockdevOnError
from blkxact.errors import QmpError, os_error
from blkxact.job.block_job import BlockJob
from blkxact.job.job import JobHost
from blkxact.job.txn import JobTxn
from blkxact.storage.errors import CopyError

from .options import ChainJobOptions

_log = logging.getLogger(__name__)

_READ_ONLY_SHARED = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED


@dataclass(frozen=True, slots=True)
class StreamChain:
    """The nodes of one stream: from ``node`` to ``above_base`` all are dropped but ``node``."""

    node: BlockNode
    base_overlay: BlockNode
    """The lowest image from which is copied."""
    above_base: BlockNode
    """The same, or the lowest filter between that image and the base."""

    @classmethod
    def above(cls, node: BlockNode, base: BlockNode | None) -> StreamChain:
        """Return the chain for ``base``, which stays; raises ``QmpError``."""
        overlay = find_overlay(node, base)
        if overlay is None:
            assert base is not None
            raise QmpError(f"'{base.node_name}' is not in the backing chain of '{node.node_name}'")
        *_, above_base = chain_nodes(overlay, base)
        return cls(node, overlay, above_base)

    @classmethod
    def down_to(cls, node: BlockNode, bottom: BlockNode) -> StreamChain:
        """Return the chain for ``bottom``, the last image that is dropped."""
        return cls(node, bottom, bottom)


class StreamJob(BlockJob):
    """Fills the image of ``chain.node``; ``cor`` is the filter above that node."""

    type_name = "stream"

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        options: ChainJobOptions,
        *,
        blockdev: Blockdev,
        chain: StreamChain,
        cor: BlockNode,
        was_read_only: bool,
    ) -> None:
        super().__init__(host, job_id, txn, options, graph=blockdev.graph, filter_node=cor)
        self.options = options
        self.blockdev = blockdev
        self.chain = chain
        self.image = skip_filters(chain.node)
        self._was_read_only = was_read_only
        self._pieces: Pieces | None = None
        self._backend = BlockBackend(
            self.graph, perm=Permission.CONSISTENT_READ, shared=_READ_ONLY_SHARED | Permission.WRITE
        )

    def set_up(self, cor: BlockNode) -> None:
        """Take the nodes; raises ``QmpError``."""
        self.hold("main node", cor)
        self._backend.insert(cor)
        # Resizing is not allowed: the length of the image is looked at once.
        self.hold("active node", self.chain.node, _READ_ONLY_SHARED | Permission.WRITE)
        first, base = next_layer(self.chain.node), next_layer(self.chain.above_base)
        if first is not None:
            for node in chain_nodes(first, base):
                self.hold("intermediate node", node, _READ_ONLY_SHARED)

    # Working

    async def run(self) -> None:
        """Copy everything; raises the first ``CopyError`` that was not tried again."""
        if self.image is self.chain.base_overlay:
            return
        self.total_progress = self.chain.node.length
        self._pieces = Pieces(self.total_progress, self._ask)
        ignored: list[CopyError] = []
        await self.work_by_policy(partial(self._copy_all, ignored))
        if ignored:
            raise ignored[0]

    async def _copy_all(self, ignored: list[CopyError]) -> None:
        pieces = self._pieces
        assert pieces is not None
        while pieces.remaining:
            await may_go_on(self)
            length = min(CHUNK, pieces.remaining)
            try:
                piece = await pieces.next_piece(limited=self.speed > 0)
                length = size_of(piece)
                if piece[0].method is not Method.SKIP:
                    self.account(length)
                    await populate(
                        self.image, pieces.offset, length, is_below, self.chain.base_overlay
                    )
            except CopyError as error:
                failure = CopyError(error, reading=True)  # whatever failed, as QEMU reports it
                if self.on_source_error is not BlockdevOnError.IGNORE:
                    raise failure from error
                self.handle_error(self.on_source_error, failure, reading=True)
                ignored.append(failure)
            pieces.done(length)
            self.progressed(length, pieces.remaining)
        await self.pause_point()  # a pause asked for during the last piece is obeyed

    async def _ask(self, offset: int) -> list[Segment]:
        """Return what lower layers hold from ``offset`` on; all else is skipped.

        What the guest writes meanwhile is skipped when its turn has come (``populate``).
        """
        with reading():
            extents = await self.image.block_status(offset, WINDOW, bottom=self.chain.base_overlay)
        return [segment_of(extent, is_below) for extent in extents]

    # Ending

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the job settles."""
        return (self.chain.node,) if self.filter_node is None else (self.filter_node,)

    async def finalize_prepare(self) -> None:
        """Take the filter out and link the image to the base; raises ``OSError``."""
        cor = self.filter_node
        assert cor is not None
        async with drained([cor, self.image, self.chain.above_base]):
            self._drop_filter()
            if self.image.backing_child is not None:
                await self._link(next_layer(self.chain.above_base))

    async def _link(self, base: BlockNode | None) -> None:
        name = fmt = None
        if base is not None:
            image = skip_filters(base)
            name = self.options.backing_file
            name = image.filename if name is None else name
            fmt = backing_format(image, mask_protocol=self.options.mask_protocol)
        try:
            self.graph.set_backing(self.image, base)
        except QmpError as error:
            _log.warning("%s", error)
            raise os_error(errno.EPERM) from error
        await change_backing_file(self.image, name, fmt)

    def clean(self) -> None:
        """Release the nodes."""
        self._drop_filter()
        super().clean()

    def _drop_filter(self) -> None:
        """Take the filter out, and let the chain change again."""
        cor, self.filter_node = self.filter_node, None
        self._backend.remove()
        if cor is not None:
            _drop_cor(self.blockdev, cor)

    async def restore(self) -> None:
        """Leave the image read-only if it was."""
        if self._was_read_only:
            await restore_read_only(self.blockdev, self.chain.node)


async def create_stream_job(
    host: JobHost,
    blockdev: Blockdev,
    job_id: str | None,
    txn: JobTxn,
    *,
    options: ChainJobOptions,
    chain: StreamChain,
) -> StreamJob:
    """Create and start the job. Raises ``QmpError`` with everything as it was."""
    node = chain.node
    was_read_only = node.read_only
    async with AsyncExitStack() as undo:
        undo.push_async_callback(blockdev.graph.settled)
        if was_read_only:
            await _make_writable(blockdev, chain)
            undo.push_async_callback(restore_read_only, blockdev, node)
        cor = await _insert_cor(blockdev, chain, options.filter_node_name)
        undo.callback(_drop_cor, blockdev, cor)
        name = host.name_job(job_id, cor)
        job = StreamJob(
            host, name, txn, options, blockdev=blockdev, chain=chain, cor=cor,
            was_read_only=was_read_only,
        )  # fmt: skip
        undo.pop_all()
    try:
        job.set_up(cor)
    except BaseException:
        async with drained([cor]):
            await job.early_fail()
        await blockdev.graph.settled()
        raise
    job.start()
    return job


async def _insert_cor(blockdev: Blockdev, chain: StreamChain, name: str | None) -> BlockNode:
    """Put the filter above the image; without a name it is implicit. Raises ``QmpError``."""
    make = partial(_open_cor, chain)
    cor = await insert_filter(
        blockdev.graph, CopyOnReadDriver, {"file": chain.node}, name, make=make
    )
    cor.implicit = name is None
    return cor


async def _open_cor(
    chain: StreamChain, context: OpenContext, children: Mapping[str, Child]
) -> CopyOnReadDriver:
    return CopyOnReadDriver(context, children, chain.base_overlay)


def _drop_cor(blockdev: Blockdev, cor: BlockNode) -> None:
    assert isinstance(cor.driver, CopyOnReadDriver)
    cor.driver.unfreeze()
    drop_filter(blockdev.graph, cor)


async def _make_writable(blockdev: Blockdev, chain: StreamChain) -> None:
    """Reopen the image for writing, with its chain frozen meanwhile."""
    blockdev.graph.freeze_chain(chain.node, chain.above_base)
    try:
        await blockdev.set_read_only(chain.node, read_only=False)
    finally:
        blockdev.graph.unfreeze_chain(chain.node, chain.above_base)
