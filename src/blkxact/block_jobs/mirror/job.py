"""The job of a mirror: converge, become ready, keep the target equal, and complete on request.

``MirrorJob`` is for ``blockdev-mirror`` and ``drive-mirror``, and the base of ``ActiveCommitJob``
(``active_commit.py``); ``create.py`` starts both.

Invariants:

* The job ends well only when nothing is dirty or in flight while the source is drained, and the
  target has been flushed. From then until the job has settled the source stays drained, so nothing
  can be written that the target does not get.
* Nothing is in flight while the job rests.
* A failure that the policy reports ends the job; any other leaves the range dirty.

How it ends in the graph: ``pivot.py``.

QEMU's counterpart: mirror_run() in ``block/mirror.c``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from blkxact.block.chain import backing_chain_next, chain_nodes, skip_filters
from blkxact.block.child import Child, Parent
from blkxact.block.drain import DrainSection
from blkxact.block.node import BlockNode
from blkxact.block.types import Permission
from blkxact.blockdev.blockdev import Blockdev
from blkxact.blockdev.drop_intermediate import restore_read_only
from blkxact.enums import BlockDeviceIoStatus, BlockErrorAction, MirrorCopyMode
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob, FlushError, check_speed
from blkxact.job.job import JobHost
from blkxact.job.txn import JobTxn
from blkxact.qapi.versions import (
    COMMIT_RESTORES_BASE,
    MIRROR_BITMAP_ON_TOP,
    MIRROR_SKIPS_ZEROES,
    behaves,
)
from blkxact.storage.errors import CopyError

from .copying import MAX_PIECES, MirrorCopy, MirrorPlan
from .options import MirrorOptions
from .pivot import Pivot
from .top import MirrorTopDriver
from .zeroes import reads_as_zeroes, unmaps_zeroes


class _TargetUser(Parent):
    """Stands for the BlockBackend through which QEMU's job writes; its requests are never queued.

    The job itself rests while its nodes are drained.
    """

    is_backend = True

    def may_inactivate(self) -> bool:
        """Return that the target may become inactive: so may the source, and both go together."""
        return True


class MirrorJob(BlockJob):
    """Keeps ``target`` equal to the node below ``top``, the filter node."""

    type_name = "mirror"

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        options: MirrorOptions,
        *,
        blockdev: Blockdev,
        top: BlockNode,
        target: BlockNode,
    ) -> None:
        checked_later = replace(options, speed=max(0, options.speed))
        super().__init__(host, job_id, txn, checked_later, graph=blockdev.graph, filter_node=top)
        self.options = options
        self.top = top
        self.target = target
        self.should_complete = options.auto_complete
        self.blockdev = blockdev
        self.pivot = Pivot(blockdev, options)
        self._restores_base = False
        self.copy: MirrorCopy
        self._undo = ExitStack()
        self._failure: CopyError | None = None
        self._in_drain = False
        self._section: DrainSection | None = None
        self._waits_for_writes = False
        self._actively_synced = False
        """Every write of the guest reaches the target, and nothing else is to be copied."""

    # Beginning.

    @property
    def driver(self) -> MirrorTopDriver:
        """The driver of the filter."""
        assert isinstance(self.top.driver, MirrorTopDriver)
        return self.top.driver

    @property
    def source(self) -> BlockNode:
        """The node that is mirrored."""
        return self.driver.file.node

    def set_up(self) -> None:
        """Take the nodes; raises ``QmpError``. ``early_fail`` undoes what has been done."""
        read, write = Permission.CONSISTENT_READ, Permission.WRITE
        shared = read | write | Permission.WRITE_UNCHANGED
        self.hold("main node", self.top, shared, read)
        check_speed(self.options.speed)
        self._check_target()
        perm, others = self._target_masks()
        edge = self.graph.attach(_TargetUser(), self.target, perm=perm, shared=others)
        self._undo.callback(self.graph.detach, edge)
        self._start_copy(edge)
        self.hold("source", self.source, shared)
        self.hold("target", self.target)

    def _check_target(self) -> None:
        if skip_filters(self.target) in chain_nodes(self.source):
            raise QmpError(
                "Cannot mirror to a filter on top of a node in the source's backing chain"
            )

    def _target_masks(self) -> tuple[Permission, Permission]:
        """Return what the job needs of the target and what it shares of it."""
        return Permission.WRITE, Permission.WRITE_UNCHANGED

    def _start_copy(self, target: Child) -> None:
        options = self.options
        release = self.host.release
        how = MirrorPlan(
            granularity=options.granularity,
            buf_size=options.buf_size,
            unit=self._unit(),
            base=self.target if self.driver.into_base else None,
            unmap=options.unmap,
            write_blocking=options.write_blocking,
            skips_zeroes=behaves(MIRROR_SKIPS_ZEROES, release),
        )
        self.copy = MirrorCopy(
            self.driver.file,
            target,
            how,
            self.host.clock,
            on_error=self._copy_failed,
            on_done=self._copied,
            on_write=self._written,
        )
        on_top = behaves(MIRROR_BITMAP_ON_TOP, release)
        shown_at = self.top if on_top else self.source
        self.copy.bitmap.enlist(shown_at.bitmap_serials)
        for bitmaps in (self.source.job_bitmaps, shown_at.shown_bitmaps):
            bitmaps.append(self.copy.bitmap)
            self._undo.callback(bitmaps.remove, self.copy.bitmap)
        self.driver.mirror = self
        self._undo.callback(setattr, self.driver, "mirror", None)

    def _unit(self) -> int:
        """Return what the target must get at a time: whole clusters, if it lacks its backing."""
        return (self.target.driver.cluster_size if self._lacks_backing() else None) or 1

    def _lacks_backing(self) -> bool:
        """Return whether the target does not have the backing yet that its header names."""
        return bool(self.target.driver.backing_file) and backing_chain_next(self.target) is None

    # What the copying and the filter ask.

    @property
    def copies_writes(self) -> bool:
        """Whether the filter brings writes to the target."""
        over = self.cancelled or self.worked or self._failure is not None
        return self.copy.write_blocking and not over

    def _copy_failed(self, error: CopyError) -> None:
        if self.judge(error) is BlockErrorAction.REPORT and self._failure is None:
            self._failure = error
        self._written()

    def _copied(self, length: int) -> None:
        self.current_progress += length
        self._show_progress()

    def _show_progress(self) -> None:
        self.total_progress = self.current_progress + self.copy.remaining

    def _written(self) -> None:
        self._actively_synced = False
        if self._waits_for_writes:
            self.kick()

    # Working.

    async def run(self) -> None:
        """Copy until the job is to end, and then until target and source are equal."""
        await self._check_lengths()
        try:
            if not self.options.none:
                await self._find_dirty()
            await self._converge()
        finally:
            await self.copy.finish_all()
        if self._failure is not None and not self.cancelled:
            raise self._failure

    async def _check_lengths(self) -> None:
        if self.source.length != self.target.length:
            raise QmpError("Source and target image have different sizes")

    async def _find_dirty(self) -> None:
        """Mark what the target lacks at the start."""
        copy, options, target = self.copy, self.options, self.target
        kept = copy.zeroes.kept
        unmaps = unmaps_zeroes(target)
        # All of the source is visited then, as its holes are to become holes of the target.
        punches = kept and unmaps and target.detect_zeroes == "unmap"
        lacks_backing = self._lacks_backing()  # which would be visible where zeroes are not written
        is_zero = options.target_is_zero or (
            kept and not lacks_backing and await reads_as_zeroes(target, self._may_go_on)
        )
        if options.full and (punches or not is_zero):
            if punches or not unmaps:
                copy.bitmap.mark(0, copy.length)
                return
            await copy.zero_all(self._may_go_on)
        elif is_zero and not punches and not lacks_backing:
            copy.zeroes.all_zero()
        await copy.mark_allocated(options.base, self._may_go_on)

    async def _may_go_on(self) -> bool:
        """Pause if requested; return whether to continue."""
        if self.must_rest():
            await self.copy.finish_all()
        await self.pause_point()
        return not self.cancelled and self._failure is None

    async def _converge(self) -> None:
        """Copy what is dirty until the job is to end and nothing is dirty."""
        copy = self.copy
        while await self._may_go_on():
            self._show_progress()
            if (
                copy.dirty
                and len(copy.pieces) < MAX_PIECES
                and self.io_status is BlockDeviceIoStatus.OK
            ):
                self.account(await copy.start_piece(limited=self.speed > 0))
                await self._wait_for_speed()
            elif copy.pieces:
                await copy.finish_one()
            elif not copy.dirty and await self._is_over():
                return

    async def _wait_for_speed(self) -> None:
        """Wait for the speed limit, also when nothing is left; any verb ends the wait."""
        delay = self.rate.delay()
        if delay:
            await self.sleep(delay, resting=not self.copy.pieces)

    async def _is_over(self) -> bool:
        """Become ready, or wait for writes and verbs; return whether the job is finished."""
        if not self.is_ready:
            if not await self._flush():
                return False
            self._show_progress()
            self.become_ready()
        if self.copy.write_blocking or not self.copy.length:
            self._actively_synced = True
        if self.should_complete or self.cancel_requested:
            return await self._stop_source()
        self._waits_for_writes = True
        await self.sleep(None)
        self._waits_for_writes = False
        return False

    async def _stop_source(self) -> bool:
        """Drain the source; if the target is equal and safe then, keep it so and return True."""
        section = DrainSection([self.source])
        self._in_drain = True
        section.begin()
        await section.idle()
        if self.copy.dirty or not await self._flush():
            section.end()
            self._in_drain = False
            return False
        self._section = section
        return True

    async def _flush(self) -> bool:
        try:
            await self.flush_target(self.target)
        except FlushError as error:
            self._copy_failed(error)
            return False
        return True

    # A drain by the job itself must not wait for the job.

    def is_idle(self) -> bool:
        """Return whether no request of the job is under way."""
        return self._in_drain or super().is_idle()

    async def idle(self) -> None:
        """Return when no request of the job is under way."""
        if not self._in_drain:
            await super().idle()

    # Verbs.

    def takes_soft_cancel(self) -> bool:
        """Return whether a cancel without force leaves an equal target."""
        return self.is_ready

    def cancel_in_flight(self) -> None:
        """Cancel requests that wait for a target that is gone."""
        self.target.driver.cancel_in_flight()

    def change_copy_mode(self, copy_mode: MirrorCopyMode) -> None:
        """Write the guest's writes to the target at once from now on; this cannot be undone."""
        if self.copy.write_blocking is (copy_mode is MirrorCopyMode.WRITE_BLOCKING):
            return
        if copy_mode is not MirrorCopyMode.WRITE_BLOCKING:
            raise QmpError(f"Change to copy mode '{copy_mode}' is not implemented")
        self.copy.start_write_blocking()
        self.kick()

    def complete(self) -> None:
        """Let the target take the place of the source, or of ``replaces`` (job-complete)."""
        if not self.is_ready:
            raise self.cannot_complete()
        self.pivot.find_replaced()
        self.should_complete = True
        self.kick()

    # Ending.

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the job settles."""
        return (self.target,) if self.filter_node is None else (self.top, self.target)

    async def finalize_prepare(self) -> None:
        """Let the target take its place in the graph; raises ``OSError``."""
        self._let_go()
        # The source may become the backing file of the target: nobody above may write to it.
        self.driver.stopped = True
        self.graph.refresh(self.top)
        if await self.pivot.make(self.top, self.target, complete=self.should_complete):
            self.graph.unref(self.top)
            self.filter_node = None

    def block_job_info(self) -> dict[str, Any]:
        """Return BlockJobInfo; of a mirror, also whether writes go to the target at once."""
        info = super().block_job_info()
        if self.type_name == MirrorJob.type_name:
            info["actively-synced"] = self._actively_synced
        return info

    def abort(self) -> None:
        """Leave the target as it is."""
        self._let_go()
        self._restores_base = self.options.base_was_read_only

    async def restore(self) -> None:
        """Leave the base of a commit read-only if it was, unless the commit succeeded."""
        if self._restores_base and behaves(COMMIT_RESTORES_BASE, self.host.release):
            await restore_read_only(self.blockdev, self.target)

    def clean(self) -> None:
        """Take the filter out; the requests that waited go to what its parents have now."""
        super().clean()
        self.pivot.clean()
        if self._section is not None:
            self._section.end()
            self._section = None
        self._in_drain = False

    def _let_go(self) -> None:
        """Stop copying: release the bitmap and the target."""
        self._undo.close()
