"""A job on block nodes: its speed, its error policy, and the BLOCK_JOB_* events.

QEMU's counterpart: ``blockjob.c``; ``qapi/block-core.json`` (BlockJobInfo, BlockdevOnError).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from blkxact.block.child import Child
from blkxact.block.graph import Graph
from blkxact.block.insert_filter import drop_filter
from blkxact.block.node import BlockNode
from blkxact.block.types import Permission
from blkxact.enums import (
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobVerb,
    MirrorCopyMode,
)
from blkxact.errors import QmpError, strerror
from blkxact.runtime.throttle.rate_limit import RateLimit
from blkxact.runtime.trace import JobError
from blkxact.storage.errors import CopyError

from .job import Job, JobHost
from .states import check_verb
from .txn import JobTxn

_log = logging.getLogger(__name__)


def error_action(policy: BlockdevOnError, error: OSError) -> BlockErrorAction:
    """Return what a policy says about an error."""
    if policy in (BlockdevOnError.ENOSPC, BlockdevOnError.AUTO):
        return BlockErrorAction.STOP if error.errno == errno.ENOSPC else BlockErrorAction.REPORT
    return BlockErrorAction(policy)


class FlushError(CopyError):
    """The target could not be flushed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error, reading=False)


class _CancelledError(Exception):
    """Ends the copying of a cancelled job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobOptions:
    """Options of every block job. ``speed`` is in bytes per second; 0: no limit."""

    speed: int = 0
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    auto_finalize: bool = True
    auto_dismiss: bool = True
    filter_node_name: str | None = None
    """The name of the filter that the job puts into the graph; None: a generated one."""


class BlockJob(Job):
    """A job with a speed, an I/O status and an error policy.

    It holds nodes (``hold``), may own a filter node that goes with it (``filter_node``), and is the
    ``CopyControl`` of its copying. A subclass says in ``run`` what is copied, and in ``nodes`` and
    ``remaining`` how that stands.
    """

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        options: BlockJobOptions,
        *,
        graph: Graph,
        filter_node: BlockNode | None = None,
    ) -> None:
        self.graph = graph
        self.filter_node = filter_node
        self.rate = RateLimit(host.clock, options.speed)
        self.on_source_error = options.on_source_error
        self.on_target_error = options.on_target_error
        self.io_status = BlockDeviceIoStatus.OK
        self._holds: list[Child] = []
        super().__init__(
            host,
            job_id,
            txn,
            auto_finalize=options.auto_finalize,
            auto_dismiss=options.auto_dismiss,
        )
        try:
            check_speed(options.speed)
        except QmpError:
            self.vanish()
            raise

    # Nodes.

    def hold(
        self,
        name: str,
        node: BlockNode,
        shared: Permission = Permission.ALL,
        perm: Permission = Permission.NONE,
    ) -> None:
        """Keep ``node`` from being deleted, and block conflicting operations.

        ``shared`` is what others may do with it; raises ``QmpError`` if one does more.
        """
        edge = self.graph.attach(self, node, name, perm=perm, shared=shared)
        self._holds.append(edge)
        node.blockers.block_all(self._blocker)

    @property
    def _blocker(self) -> str:
        return f"block device is in use by block job: {self.type_name}"

    def clean(self) -> None:
        """Release the nodes and take the filter out of the graph.

        A filter whose parents would conflict without it stays until they are gone; QEMU aborts.
        Where bitmaps wait for the whole transaction, the job keeps its nodes until then.
        """
        if self.started and self.txn.policy.bitmaps_wait_for_all:
            for node in self.nodes():
                self.graph.ref(node)
                self.txn.keep_until_over(partial(self.graph.unref, node))
        for edge in self._holds:
            edge.node.blockers.unblock_all(self._blocker)
            self.graph.detach(edge)
        self._holds.clear()
        if self.filter_node is not None:
            try:
                drop_filter(self.graph, self.filter_node)
            except QmpError as error:
                _log.warning("the filter of job '%s' stays: %s", self.id, error.desc)
                self.graph.unref(self.filter_node)

    # Working.

    def remaining(self) -> int:
        """Return how many bytes are still to be copied."""
        return self.total_progress - self.current_progress

    async def work_by_policy(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` until it succeeds or the job is cancelled.

        After a ``CopyError`` the error policy decides whether it is tried again, at once or when
        the client resumes the job. Raises the ``CopyError`` that is to be reported.
        """
        while not self.cancelled:
            try:
                await work()
            except _CancelledError:
                return
            except CopyError as error:
                if self.judge(error) is BlockErrorAction.REPORT:
                    raise
                await self.pause_point()
            else:
                return

    def judge(self, error: CopyError) -> BlockErrorAction:
        """Apply the error policy of the side that failed."""
        policy = self.on_source_error if error.reading else self.on_target_error
        if isinstance(error, FlushError) and policy is BlockdevOnError.IGNORE:
            policy = BlockdevOnError.REPORT  # no later flush could be trusted
        return self.handle_error(policy, error, reading=error.reading)

    async def flush_target(self, target: BlockNode) -> None:
        """Make the copy durable; raises ``FlushError``."""
        try:
            await self.host.points.reach("job.before-flush", job=self.id)
            await target.flush()
        except OSError as error:
            raise FlushError(error) from error

    # CopyControl: what the copying asks between two pieces.

    @property
    def speed(self) -> int:
        """Bytes per second; 0: no limit."""
        return self.rate.speed

    async def limit(self) -> None:
        """Return when another piece may start, when the job is to rest, or when all is copied."""
        points = self.host.points
        if points.listening:
            await points.reach("job.step", job=self.id)
        while True:
            if self.cancelled:
                raise _CancelledError
            delay = self.rate.delay()
            if self.must_rest() or not delay or not self.remaining():
                return
            await self.sleep(delay, resting=False)

    def account(self, length: int) -> None:
        """Count ``length`` bytes against the speed."""
        self.rate.account(length)

    def pause_requested(self) -> bool:
        """Return whether the job is to rest."""
        return self.must_rest()

    async def pause(self) -> None:
        """Rest; nothing is in flight meanwhile."""
        await self.pause_point()

    def progressed(self, done: int, remaining: int) -> None:
        """Count ``done`` more bytes; ``remaining`` are left."""
        self.current_progress += done
        self.total_progress = self.current_progress + remaining
        if not remaining:
            self.kick()  # the guest may have had the last piece copied

    # Verbs and events.

    def set_speed(self, speed: int) -> None:
        """Change the speed (block-job-set-speed)."""
        check_verb(self.id, self.status, JobVerb.SET_SPEED)
        check_speed(speed)
        self.rate.set_speed(speed)
        self.kick()

    def change(self, copy_mode: MirrorCopyMode) -> None:
        """Change how the job works (block-job-change)."""
        check_verb(self.id, self.status, JobVerb.CHANGE)
        self.change_copy_mode(copy_mode)

    def change_copy_mode(self, copy_mode: MirrorCopyMode) -> None:
        """Refuse; only a mirror has a copy mode."""
        del copy_mode
        raise QmpError("Job type does not support change")

    def handle_error(
        self, policy: BlockdevOnError, error: OSError, *, reading: bool
    ) -> BlockErrorAction:
        """Apply the error policy to a failed request; ``STOP`` pauses the job for the user."""
        action = error_action(policy, error)
        operation = IoOperationType.READ if reading else IoOperationType.WRITE
        self.host.trace(JobError(self.id, operation, strerror(error), str(action)))
        if self.id is not None:
            self.host.emit(
                "BLOCK_JOB_ERROR",
                {"device": self.id, "operation": operation, "action": str(action)},
            )
        if action is BlockErrorAction.STOP:
            self.pause_for_user()
            if self.io_status is BlockDeviceIoStatus.OK:
                full = error.errno == errno.ENOSPC
                self.io_status = BlockDeviceIoStatus.NOSPACE if full else BlockDeviceIoStatus.FAILED
        return action

    def user_resumed(self) -> None:
        """Forget the error that paused the job."""
        self.io_status = BlockDeviceIoStatus.OK

    def announce_end(self) -> None:
        """Send BLOCK_JOB_COMPLETED or BLOCK_JOB_CANCELLED."""
        if self.cancelled:
            self._announce("BLOCK_JOB_CANCELLED")
        elif self.ret:
            self._announce("BLOCK_JOB_COMPLETED", error=self.error)
        else:
            self._announce("BLOCK_JOB_COMPLETED")

    def announce_ready(self) -> None:
        """Send BLOCK_JOB_READY."""
        self._announce("BLOCK_JOB_READY")

    def announce_pending(self) -> None:
        """Send BLOCK_JOB_PENDING."""
        if self.id is not None:
            self.host.emit("BLOCK_JOB_PENDING", {"type": self.type_name, "id": self.id})

    def _announce(self, event: str, **more: Any) -> None:
        if self.id is not None:
            data = {
                "type": self.type_name,
                "device": self.id,
                "len": self.total_progress,
                "offset": self.current_progress,
                "speed": self.rate.speed,
            }
            self.host.emit(event, data | more)

    def block_job_info(self) -> dict[str, Any]:
        """Return BlockJobInfo."""
        info = {
            "type": self.type_name,
            "device": self.id,
            "len": self.total_progress,
            "offset": self.current_progress,
            # A client that paused the job waits until it is really paused.
            "busy": self.is_paused and self.started and not self.is_idle(),
            "paused": self.is_paused or self.is_quiesced,
            "speed": self.rate.speed,
            "io-status": str(self.io_status),
            "ready": self.is_ready,
            "status": str(self.status),
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
        }
        if self.ret:
            info["error"] = self.error
        return info


def check_speed(speed: int) -> None:
    """Raise ``QmpError`` for a speed below zero."""
    if speed < 0:
        raise QmpError("Parameter 'speed' expects a non-negative value")
