"""The backup job: copies a node as it was when the transaction that started the job was committed.

A copy-before-write filter above the source saves what the guest is about to overwrite, and the job
copies the rest in the background. The bitmap that it took its list of clusters from is settled
through a ``BitmapClaim``: by the job itself when it concludes (completion modes individual and
grouped), or by the completion object with the result of the whole (deferred). A backup is good
when the target has flushed it; QEMU does not wait for that.

QEMU's counterpart: ``block/backup.c``; ``qapi/block-core.json`` (BackupCommon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from blkxact.block.block_copy import BlockCopy
from blkxact.block.blockers import BlockOp
from blkxact.block.child import Child
from blkxact.block.copy_sweep import DEFAULT_WORKERS
from blkxact.block.graph import Graph
from blkxact.block.insert_filter import drop_filter, insert_filter
from blkxact.block.node import BlockNode
from blkxact.block.open_context import OpenContext
from blkxact.drivers.copy_before_write import (
    CopyBeforeWriteDriver,
    check_min_cluster_size,
    make_block_copy,
    make_claimed_copy,
)
from blkxact.enums import MirrorSyncMode, OnCbwError
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob, BlockJobOptions
from blkxact.job.claim import BitmapClaim
from blkxact.job.job import JobHost
from blkxact.job.txn import JobTxn


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions(BlockJobOptions):
    """Options of a backup job: the members of BackupCommon that the job itself uses.

    ``max_chunk`` is in bytes; 0: no limit. ``min_cluster_size`` is the least unit of copying.
    """

    sync: MirrorSyncMode
    compress: bool = False
    discard_source: bool = False
    max_workers: int = DEFAULT_WORKERS
    max_chunk: int = 0
    min_cluster_size: int = 0
    on_cbw_error: OnCbwError = OnCbwError.BREAK_GUEST_WRITE


class BackupJob(BlockJob):
    """Copies ``source`` to ``target`` through ``cbw``, the filter node above ``source``."""

    type_name = "backup"

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        options: BackupOptions,
        *,
        graph: Graph,
        target: BlockNode,
        cbw: BlockNode,
        claim: BitmapClaim | None,
    ) -> None:
        self.options = options
        self.target = target
        self.claim = claim
        self.cbw = cbw_of(cbw)
        self.copy = self.cbw.block_copy
        self.source = self.copy.source.node
        super().__init__(host, job_id, txn, options, graph=graph, filter_node=cbw)
        self.copy.progress = self.progressed

    def set_up(self) -> None:
        """Take the nodes; raises ``QmpError``. ``early_fail`` undoes what has been done."""
        assert self.filter_node is not None
        self.hold("main node", self.filter_node)
        self.hold("target", self.target)

    def begin_work(self) -> None:
        """Begin; as in QEMU, a snapshot in the same transaction is the layer that ``top`` means."""
        self.copy.take_layer()
        super().begin_work()

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the job settles."""
        return (self.source, self.target)

    def remaining(self) -> int:
        """Return how many bytes are still to be copied."""
        return self.copy.remaining

    async def run(self) -> None:
        """Copy until all is copied or, with ``sync: none``, until the job is cancelled."""
        self.total_progress = self.current_progress + self.copy.remaining
        if self.options.sync is not MirrorSyncMode.NONE:
            await self.work_by_policy(self._copy_all)
            return
        while not self.cancelled:
            await self.pause_point()
            await self.sleep(None)

    async def _copy_all(self) -> None:
        await self.copy.copy_dirty(
            self,
            workers=min(self.options.max_workers, DEFAULT_WORKERS),
            max_chunk=self.options.max_chunk,
        )
        if self.cbw.point.error is not None:
            raise self.cbw.point.error  # the guest has changed what could not be copied before
        if not self.cancelled:
            await self.flush_target(self.target)  # only now may the bitmap be cleared

    def cancel_in_flight(self) -> None:
        """Cancel requests that wait for a target that is gone."""
        self.target.driver.cancel_in_flight()

    def commit(self) -> None:
        """Settle the bitmap of a good backup."""
        self._end_claim()

    def abort(self) -> None:
        """Settle the bitmap of a failed backup; that of one that never started is as it was."""
        self._end_claim()

    def _end_claim(self) -> None:
        if self.claim is None:
            return
        if self.started:
            self.claim.job_ended(self.ret, self.copy.copy_bitmap)
        else:
            self.claim.withdraw()


def cbw_of(node: BlockNode) -> CopyBeforeWriteDriver:
    """Return the driver of a backup's filter node."""
    assert isinstance(node.driver, CopyBeforeWriteDriver)
    return node.driver


def check_backup(source: BlockNode, target: BlockNode, options: BackupOptions) -> None:
    """Raise ``QmpError`` unless ``target`` can be a backup of ``source`` (backup_job_create)."""
    if source is target:
        raise QmpError("Source and target cannot be the same")
    if options.compress and not target.driver.supports_compressed_writes:
        name = target.root_device_name or ""
        raise QmpError(f"Compression is not supported for this drive {name}")
    source.check_operation(BlockOp.BACKUP_SOURCE)
    target.check_operation(BlockOp.BACKUP_TARGET)
    if options.max_workers < 1:
        raise QmpError(f"max-workers must be between 1 and {2**31 - 1}")
    if options.max_chunk < 0:
        raise QmpError("max-chunk must be zero (which means no limit) or positive")


def check_sizes(source: BlockNode, target: BlockNode) -> None:
    """Raise ``QmpError`` unless both are of one size; QEMU looks at it after the bitmap."""
    if source.length != target.length:
        raise QmpError("Source and target image have different sizes")


def check_max_chunk(copy: BlockCopy, options: BackupOptions) -> None:
    """Raise ``QmpError`` if a piece of the copying would be less than a cluster."""
    if 0 < options.max_chunk < copy.cluster_size:
        raise QmpError(
            f"Required max-chunk ({options.max_chunk}) is less than backup "
            f"cluster size ({copy.cluster_size})"
        )


async def open_cbw(
    context: OpenContext,
    children: Mapping[str, Child],
    *,
    options: BackupOptions,
    claim: BitmapClaim | None,
    target_is_blank: bool,
) -> CopyBeforeWriteDriver:
    """Make the driver of a backup's filter, with all that is known of what is to be copied."""
    source, target = children["file"], children["target"]
    how: dict[str, Any] = {
        "compress": options.compress,
        "discard_source": options.discard_source,
        "skip_unallocated": options.sync is MirrorSyncMode.TOP,
        "target_is_blank": target_is_blank,
        "min_cluster_size": options.min_cluster_size,
    }
    if options.sync is MirrorSyncMode.BITMAP:
        assert claim is not None
        copy = await make_claimed_copy(source, target, claim.bitmap, **how)
    else:
        copy = await make_block_copy(source, target, **how)
    # What a backup of these modes does not copy is lost with the next write.
    for_access = options.sync not in {MirrorSyncMode.BITMAP, MirrorSyncMode.TOP}
    return CopyBeforeWriteDriver(
        context, children, copy, on_cbw_error=options.on_cbw_error, for_access=for_access
    )


async def create_backup_job(
    host: JobHost,
    graph: Graph,
    job_id: str | None,
    txn: JobTxn,
    options: BackupOptions,
    *,
    source: BlockNode,
    target: BlockNode,
    claim: Callable[[], BitmapClaim | None],
    target_is_blank: bool = False,
) -> BackupJob:
    """Insert the filter above ``source`` and create the job, which is not started yet.

    ``claim`` freezes the bitmap. Raises ``QmpError`` with graph and bitmap as they were.
    """
    check_backup(source, target, options)
    with ExitStack() as undo:
        claimed = claim()
        if claimed is not None:
            undo.callback(claimed.withdraw)
        check_sizes(source, target)
        check_min_cluster_size(options.min_cluster_size)
        make = partial(open_cbw, options=options, claim=claimed, target_is_blank=target_is_blank)
        children = {"file": source, "target": target}
        name = options.filter_node_name
        cbw = await insert_filter(graph, CopyBeforeWriteDriver, children, name, make=make)
        undo.callback(drop_filter, graph, cbw)
        check_max_chunk(cbw_of(cbw).block_copy, options)
        job_id = host.name_job(job_id, cbw)
        job = BackupJob(
            host, job_id, txn, options, graph=graph, target=target, cbw=cbw, claim=claimed
        )
        undo.pop_all()
    try:
        job.set_up()
    except BaseException:
        await job.early_fail()
        raise
    return job
