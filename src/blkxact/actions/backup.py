"""The actions that start backup jobs, and their common implementation.

``drive-backup`` differs from ``blockdev-backup`` only in where its target comes from: the one
creates and opens an image, the other names a node.

QEMU's counterpart: ``blockdev.c`` (drive_backup_prepare, blockdev_backup_prepare,
do_backup_common).
"""

from __future__ import annotations

from collections.abc import Iterable

from blkxact.backup_job import BackupJob, BackupOptions, create_backup_job
from blkxact.bitmap import BitmapCheck, DirtyBitmap
from blkxact.block.blockers import BlockOp
from blkxact.block.chain import skip_implicit_filters, skip_transparent
from blkxact.block.copy_sweep import DEFAULT_WORKERS
from blkxact.block.node import BlockNode
from blkxact.blockdev.image_create import create_image
from blkxact.enums import BitmapSyncMode, MirrorSyncMode, NewImageMode, OnCbwError
from blkxact.errors import QmpError
from blkxact.job.claim import BitmapClaim
from blkxact.job.txn import JobTxn
from blkxact.qapi.block_core import BackupCommon, BackupPerf, BlockdevBackup, DriveBackup

from .base import BlockAction


class _BackupAction(BlockAction):
    """Common to both: a job that is created in ``prepare`` and started in ``commit``."""

    args: BackupCommon
    job: BackupJob | None = None
    has_job = True

    def nodes(self) -> Iterable[BlockNode]:
        """Return the source."""
        return self.find_or_none(self.args.device)

    def commit(self) -> None:
        """Start the job."""
        assert self.job is not None
        self.job.start()

    def abort(self) -> None:
        """End the job that never started; its bitmap is as it was."""
        if self.job is not None:
            self.job.discard()

    async def create_job(
        self, source: BlockNode, target: BlockNode, sync: MirrorSyncMode, *, target_is_blank: bool
    ) -> None:
        """Create the job from what both actions have in common (BackupCommon)."""
        args = self.args
        sync, bitmap, mode = find_bitmap(args, source, sync, self.txn)
        options = options_of(args, sync)

        def claim() -> BitmapClaim | None:
            if bitmap is None or mode is None:
                return None
            if mode is not BitmapSyncMode.NEVER:
                bitmap.check(BitmapCheck.READ_ONLY)
            return BitmapClaim(source.node_name, bitmap, mode, self.txn)

        self.job = await create_backup_job(
            self.layer,
            self.layer.graph,
            args.job_id,
            self.txn,
            options,
            source=source,
            target=target,
            claim=claim,
            target_is_blank=target_is_blank,
        )


class BlockdevBackupAction(_BackupAction):
    """``blockdev-backup`` (BlockdevBackup)."""

    kind = "blockdev-backup"
    model = BlockdevBackup
    args: BlockdevBackup

    def nodes(self) -> Iterable[BlockNode]:
        """Return source and target."""
        return self.find_or_none(self.args.device, self.args.target)

    async def prepare(self) -> None:
        """Find both nodes and create the job."""
        source = self.layer.find_node(self.args.device)
        target = self.layer.find_node(self.args.target)
        sync = self.args.sync
        await self.create_job(source, target, sync, target_is_blank=False)


class DriveBackupAction(_BackupAction):
    """``drive-backup`` (DriveBackup): creates its target, unless ``mode`` is ``existing``."""

    kind = "drive-backup"
    model = DriveBackup
    args: DriveBackup
    _target: BlockNode | None = None

    async def prepare(self) -> None:
        """Create and open the target, then create the job."""
        args = self.args
        blockdev = self.layer.blockdev
        source = self.layer.find_node(args.device)
        existing = args.mode is NewImageMode.EXISTING
        image_format = args.format or (None if existing else source.driver.format_name)
        source.check_operation(BlockOp.BACKUP_SOURCE)
        sync, backing = self._chain(source)
        reads_zeroes = False
        if image_format is not None and not existing:
            reads_zeroes = await create_image(
                blockdev,
                args.target,
                image_format,
                size=source.length,
                backing=None if backing is None else skip_implicit_filters(backing),
                report=self.layer.guest.print,
            )
        target = await blockdev.open_image(
            args.target,
            {"discard": "unmap", "detect-zeroes": "unmap"},
            image_format,
            inherited=source.common.flags(read_only=False),
            backing=sync is not MirrorSyncMode.NONE,
        )
        self._target = self.layer.graph.ref(target)
        if sync is MirrorSyncMode.NONE:
            self.layer.graph.set_backing(target, source)
        # An increment is blank too, but it will become an overlay of another image, whose data
        # would be visible where no zeroes are written.
        blank = reads_zeroes and sync is MirrorSyncMode.FULL
        await self.create_job(source, target, sync, target_is_blank=blank)

    def _chain(self, source: BlockNode) -> tuple[MirrorSyncMode, BlockNode | None]:
        """Return the mode to copy in and the node that the target is to have as backing file."""
        sync = self.args.sync
        if sync is MirrorSyncMode.NONE:
            return sync, source
        if sync is not MirrorSyncMode.TOP:
            return sync, None
        backing = skip_transparent(source).backing
        return (sync if backing else MirrorSyncMode.FULL), backing

    def clean(self) -> None:
        """Leave the target to the job; without one it is closed."""
        if self._target is not None:
            self.layer.graph.unref(self._target)


def options_of(args: BackupCommon, sync: MirrorSyncMode) -> BackupOptions:
    """Return the options of the job, with ``sync`` as ``find_bitmap`` returns it."""
    perf = args.x_perf or BackupPerf()
    return BackupOptions(
        sync=sync,
        on_source_error=args.on_source_error,
        on_target_error=args.on_target_error,
        speed=args.speed,
        auto_finalize=args.auto_finalize,
        auto_dismiss=args.auto_dismiss,
        compress=args.compress,
        discard_source=args.discard_source,
        filter_node_name=args.filter_node_name,
        max_workers=DEFAULT_WORKERS if perf.max_workers is None else perf.max_workers,
        max_chunk=perf.max_chunk or 0,
        min_cluster_size=perf.min_cluster_size or 0,
        on_cbw_error=args.on_cbw_error or OnCbwError.BREAK_GUEST_WRITE,
    )


def find_bitmap(
    args: BackupCommon, source: BlockNode, sync: MirrorSyncMode, txn: JobTxn
) -> tuple[MirrorSyncMode, DirtyBitmap | None, BitmapSyncMode | None]:
    """Return the mode, the bitmap and its mode, with ``incremental`` spelled out.

    Raises ``QmpError`` when the three do not fit together.
    """
    mode = args.bitmap_mode
    if sync in (MirrorSyncMode.BITMAP, MirrorSyncMode.INCREMENTAL) and args.bitmap is None:
        raise QmpError(f"must provide a valid bitmap name for '{sync}' sync mode")
    if sync is MirrorSyncMode.INCREMENTAL:
        if mode not in (None, BitmapSyncMode.ON_SUCCESS):
            raise QmpError(
                f"Bitmap sync mode must be '{BitmapSyncMode.ON_SUCCESS}' "
                f"when using sync mode '{sync}'"
            )
        sync, mode = MirrorSyncMode.BITMAP, BitmapSyncMode.ON_SUCCESS
    if args.bitmap is None:
        if mode is not None:
            raise QmpError("Cannot specify bitmap sync mode without a bitmap")
        return sync, None, None
    bitmap = source.bitmaps.get(args.bitmap)
    if bitmap is None:
        raise QmpError(f"Bitmap '{args.bitmap}' could not be found")
    if mode is None:
        raise QmpError("Bitmap sync mode must be given when providing a bitmap")
    bitmap.check_freeze(txn)
    if sync is MirrorSyncMode.NONE:
        raise QmpError(f"sync mode '{sync}' does not produce meaningful bitmap outputs")
    if mode is BitmapSyncMode.NEVER and sync is not MirrorSyncMode.BITMAP:
        raise QmpError(
            f"Bitmap sync mode '{mode}' has no meaningful effect "
            f"when combined with sync mode '{sync}'"
        )
    return sync, bitmap, mode
