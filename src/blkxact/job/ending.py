"""How jobs end: alone, or together with the group that concludes as one.

The group of a job is all jobs of its transaction if that is ``grouped``, else the job alone.

Invariants:

* A group ends when the work of all its jobs is over. One failure makes it fail: the others are
  cancelled, and none commits.
* A group is settled in one synchronous stretch, its requests held: ``commit`` or ``abort``, then
  ``clean``, of each job. Then the nodes that nobody needs any more are closed. Only then do the
  jobs conclude and the events go out, so a client that sees a backup complete can open its target.
* A bug in one job does not keep the others from settling; it is raised when all are settled.
* The callers hold the layer's lock, so no command sees a half-ended group.

QEMU's counterpart: job_completed(), job_completed_txn_abort() and job_do_finalize() in ``job.c``.
"""

from __future__ import annotations

import errno
import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from blkxact.block.drain import drained
from blkxact.block.node import BlockNode
from blkxact.enums import JobStatus
from blkxact.errors import QmpError
from blkxact.runtime.clock import Clock
from blkxact.runtime.points import Points
from blkxact.runtime.settle import Settling
from blkxact.runtime.trace import JobEnded, Trace

from .pausing import Pausing
from .states import TRANSITIONS
from .txn import JobTxn

_OVER = (JobStatus.CONCLUDED, JobStatus.NULL)

_log = logging.getLogger(__name__)


class EndingHost(Protocol):
    """What the end of a job needs of the emulator that runs it."""

    clock: Clock

    @property
    def trace(self) -> Trace:
        """Is given what happens, step by step."""

    @property
    def points(self) -> Points:
        """The places where something may fail or wait."""

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """Send an event."""

    def forget_job(self, job: Ending) -> None:
        """Take a job that is dismissed off the list."""

    async def close_unused_nodes(self) -> None:
        """Close the nodes whose last parent has gone."""


class Ending(Pausing):
    """The part of a job that settles it with its group and reports how it ended."""

    type_name: ClassVar[str]
    """JobType."""

    def __init__(
        self,
        host: EndingHost,
        job_id: str | None,
        txn: JobTxn,
        *,
        auto_finalize: bool,
        auto_dismiss: bool,
    ) -> None:
        super().__init__(host.clock, host.points)
        self.host = host
        self.id = job_id
        self.txn = txn
        self.auto_finalize = auto_finalize
        self.auto_dismiss = auto_dismiss
        self.ret = 0
        self.error: str | None = None
        self.completed = False
        """``run`` is over; the job waits for its group and for the client."""

    # What a subclass does.

    async def finalize_prepare(self) -> None:
        """Do the last work that can fail, once the whole group is complete (JobDriver.prepare)."""

    def commit(self) -> None:
        """Settle a job that succeeded."""

    def abort(self) -> None:
        """Settle a job that failed or was cancelled."""

    def clean(self) -> None:
        """Release nodes, after ``commit`` or ``abort``."""

    async def restore(self) -> None:
        """Undo, after ``clean``, what has to wait and may fail without harm (read-only again)."""

    def nodes(self) -> Iterable[BlockNode]:
        """Return the nodes whose requests are held while the job settles."""
        return ()

    def announce_end(self) -> None:
        """Send the events that report how the job ended."""

    def announce_pending(self) -> None:
        """Send the event that asks for ``job-finalize``."""

    @abstractmethod
    def request_cancel(self) -> None:
        """Ask the job to end as soon as it can; it does not wait for that."""

    # The group.

    async def complete_work(self) -> None:
        """Join the ending of the group, now that this job's work is over."""
        self.completed = True
        self.note_result()
        if self.ret or self.txn.aborting:
            await self.fail_group()
            return
        self.set_status(JobStatus.WAITING)
        group = self._group()
        if not all(one.completed for one in group):
            return
        for one in group:
            one.set_status(JobStatus.PENDING)
            if not one.auto_finalize:
                one.announce_pending()
        if all(one.auto_finalize for one in group):
            await self.finalize_group()

    async def fail_group(self) -> None:
        """Cancel the other jobs of the group; settle them once the work of all is over."""
        group = self._group()
        if self.txn.policy.concludes_as_group and not self.txn.aborting:
            self.txn.aborting = True
            for other in group:
                if other is not self:
                    other.request_cancel()
        if all(one.completed for one in group):
            await _settle(group)

    async def finalize_group(self) -> None:
        """Do the last work of the group that can fail, then settle it."""
        group = self._group()
        for one in group:
            try:
                await one.host.points.reach("job.prepare", job=one.id)
                await one.finalize_prepare()
            except Exception as error:  # noqa: BLE001 - a bug fails the job as an error does
                one.fail(error)
                one.note_result()
                await one.fail_group()
                return
        await _settle(group)

    def _group(self) -> list[Ending]:
        """Return the jobs that conclude together with this one, the latest first as in QEMU."""
        if not self.txn.policy.concludes_as_group:
            return [self]
        jobs: list[Ending] = [one for one in self.txn.jobs if one.status not in _OVER]  # type: ignore[misc]
        return jobs[::-1]

    # The result.

    def fail(self, error: Exception) -> None:
        """Record why the job failed: an error of a request, a refusal, or a bug."""
        match error:
            case OSError():
                self.ret, self.error = -(error.errno or errno.EIO), None
            case QmpError():
                self.ret, self.error = -errno.EIO, error.desc
            case bug:
                _log.error("job %s: internal error", self.id, exc_info=bug)
                self.ret, self.error = -errno.EIO, f"Internal error: {bug!r}"

    def note_result(self) -> None:
        """Set the return code of a cancelled job and the error of a failed one."""
        if not self.ret and self.cancelled:
            self.ret = -errno.ECANCELED
        if self.ret:
            self.error = self.error or os.strerror(-self.ret)
            if self.status is not JobStatus.ABORTING:
                self.set_status(JobStatus.ABORTING)

    def settle(self, settling: Settling) -> None:
        """Commit or abort, then clean; ``settling`` collects what is raised."""
        if self.cancelled and not self.ret:
            self.ret = -errno.ECANCELED
        points = self.host.points
        settling.call(points.hit, "job.abort" if self.ret else "job.commit", job=self.id)
        bug = settling.call(self.abort if self.ret else self.commit)
        if bug is not None and not self.ret:
            self.fail(bug)  # what the events report must not be success
        settling.call(points.hit, "job.clean", job=self.id)
        settling.call(self.clean)

    def conclude(self) -> None:
        """Report how the job ended and drop its reference to the transaction; it is settled."""
        self.host.points.hit("job.conclude", job=self.id)
        self.note_result()
        outcome = "cancelled" if self.ret == -errno.ECANCELED else "failed"
        self.host.trace(JobEnded(self.id, outcome if self.ret else "completed", self.error))
        self.announce_end()
        self.set_status(JobStatus.CONCLUDED)
        if self.auto_dismiss:
            self.set_status(JobStatus.NULL)
            self.host.forget_job(self)
        self.txn.job_concluded(self)

    def set_status(self, status: JobStatus) -> None:
        """Change the status, by the table; the one place that does."""
        assert status in TRANSITIONS[self.status], f"{self.status} -> {status}"
        self.status = status
        if self.id is not None:
            self.host.emit("JOB_STATUS_CHANGE", {"id": self.id, "status": str(status)})


async def _settle(group: list[Ending]) -> None:
    host = group[0].host
    with Settling("the end of a group of jobs") as settling:
        async with drained(node for job in group for node in job.nodes()):
            for job in group:
                job.settle(settling)
        for job in group:
            await job.restore()
        await host.close_unused_nodes()
        for job in group:
            settling.call(job.conclude)
        # The last job to conclude may have released what was kept for the whole transaction.
        await host.close_unused_nodes()
