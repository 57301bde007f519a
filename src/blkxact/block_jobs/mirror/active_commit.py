"""The commit of the active layer: a mirror of the disk to an image of its own chain.

When the job completes, the base takes the place of the disk, and the layers between are dropped.

QEMU's counterpart: commit_active_start() in ``block/mirror.c``.
"""

from __future__ import annotations

from blkxact.block.types import Permission
from blkxact.block_jobs.commit_base import grow, hold_intermediate_nodes
from blkxact.enums import MirrorCopyMode
from blkxact.job.block_job import BlockJob

from .job import MirrorJob


class ActiveCommitJob(MirrorJob):
    """Commits the active layer: a mirror of the disk to an image of its own chain."""

    type_name = "commit"
    _frozen = False

    def set_up(self) -> None:
        """Take the nodes, and those between source and target."""
        super().set_up()
        hold_intermediate_nodes(self, self.source, self.target, but=self.source)
        self.graph.freeze_chain(self.top, self.target)
        self._frozen = True

    def _check_target(self) -> None:
        """Check nothing: the target is in the chain."""

    def _target_masks(self) -> tuple[Permission, Permission]:
        shared = Permission.WRITE_UNCHANGED | Permission.CONSISTENT_READ | Permission.WRITE
        perm = Permission.WRITE
        if self.target.length < self.source.length:
            perm |= Permission.RESIZE
        return perm, shared

    async def _check_lengths(self) -> None:
        if self.source.length > self.target.length:
            await grow(self.copy.target, self.source.length)

    def cancel_in_flight(self) -> None:
        """Wait for the requests in flight: the target is an image of the guest's own."""

    def change_copy_mode(self, copy_mode: MirrorCopyMode) -> None:
        """Refuse, as other jobs do."""
        BlockJob.change_copy_mode(self, copy_mode)

    def _let_go(self) -> None:
        if self._frozen:
            self.graph.unfreeze_chain(self.top, self.target)
            self._frozen = False
        super()._let_go()
