"""A job: work that goes on after the reply, and how it ends.

Invariants:

* ``status`` changes in one place, ``set_status``, by the table of ``job.states``, and every change
  is a ``JOB_STATUS_CHANGE``.
* A job that was cancelled softly while it could (``takes_soft_cancel``) ends as one that succeeded.
* A cancel by force is never taken back, and wins over a soft one.

Where a job rests: ``job.pausing``. How it ends, alone or with its group: ``job.ending``.

QEMU's counterpart: ``job.c``, ``blockjob.c``.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from blkxact.block.node import BlockNode
from blkxact.enums import JobStatus, JobVerb
from blkxact.errors import QmpError
from blkxact.runtime.release import Release

from .ending import Ending, EndingHost
from .states import PAUSED_FORM, RESUMED_FORM, check_verb
from .txn import JobTxn

_log = logging.getLogger(__name__)


class JobHost(EndingHost, Protocol):
    """What a job needs of the emulator that runs it."""

    release: Release
    """The release of QEMU that it is."""

    def ending(self) -> AbstractAsyncContextManager[Any]:
        """Return a context that holds the lock which orders commands and the ending of jobs."""

    def name_job(self, job_id: str | None, node: BlockNode) -> str:
        """Return the id of a new job, by default the name of the node's device.

        Raises ``QmpError`` if it cannot have it.
        """

    def add_job(self, job: Job) -> None:
        """List a new job."""


class Job(Ending):
    """One job. Subclasses do the work in ``run`` and settle it in ``commit``, ``abort``, ``clean``.

    ``job_id`` is None for a job that clients do not see. A new job is ``created`` and paused; it
    works after ``start``.
    """

    host: JobHost

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        *,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        super().__init__(host, job_id, txn, auto_finalize=auto_finalize, auto_dismiss=auto_dismiss)
        self.current_progress = 0
        self.total_progress = 0
        self.cancel_requested = False
        """The job was cancelled, by force or softly."""
        self.worked = False
        """``run`` is over."""
        self._task: asyncio.Task[None] | None = None
        txn.add_job(self)
        host.add_job(self)
        self.set_status(JobStatus.CREATED)

    # What a subclass does.
    @abstractmethod
    async def run(self) -> None:
        """Do the work.

        Calls ``pause_point`` often; ends early when ``cancelled``. Raises ``OSError`` or
        ``QmpError`` when it fails.
        """

    def announce_ready(self) -> None:
        """Send the event that says ``job-complete`` is possible now."""

    def complete(self) -> None:
        """Do what ``job-complete`` asks for; raises ``QmpError`` if there is no such thing."""
        raise self.cannot_complete()

    def takes_soft_cancel(self) -> bool:
        """Return whether a soft cancel now lets the job end successfully (a ready mirror)."""
        return False

    def cancel_in_flight(self) -> None:
        """Fail requests that may never be answered: the job was cancelled by force."""

    # What a client does: each verb is checked against the table first.

    def start(self) -> None:
        """Set a created job to work."""
        assert self.status is JobStatus.CREATED
        self.pause_count -= 1
        self.set_status(JobStatus.RUNNING)
        self.begin_work()
        self._task = asyncio.get_running_loop().create_task(self._main(), name=f"job {self.id}")

    def user_pause(self) -> None:
        """Pause (job-pause)."""
        check_verb(self.id, self.status, JobVerb.PAUSE)
        if self.user_paused:
            raise QmpError("Job is already paused")
        self.pause_for_user()

    def user_resume(self) -> None:
        """Resume (job-resume)."""
        if not self.user_paused:
            raise QmpError("Can't resume a job that was not paused")
        check_verb(self.id, self.status, JobVerb.RESUME)
        self.resume_for_user()

    async def user_cancel(self, *, force: bool = True) -> None:
        """Cancel (job-cancel, block-job-cancel)."""
        check_verb(self.id, self.status, JobVerb.CANCEL)
        await self.cancel(force=force)

    def user_complete(self) -> None:
        """Complete (job-complete)."""
        check_verb(self.id, self.status, JobVerb.COMPLETE)
        if self.cancel_requested:
            raise self.cannot_complete()
        self.complete()

    def cannot_complete(self) -> QmpError:
        """Return the refusal of ``job-complete``."""
        return QmpError(f"The active block job '{self.id}' cannot be completed")

    async def user_finalize(self) -> None:
        """Finalize (job-finalize); the group goes with it."""
        check_verb(self.id, self.status, JobVerb.FINALIZE)
        await self.finalize_group()

    def user_dismiss(self) -> None:
        """Dismiss (job-dismiss)."""
        check_verb(self.id, self.status, JobVerb.DISMISS)
        self.set_status(JobStatus.NULL)
        self.host.forget_job(self)

    # Cancelling.

    def request_cancel(self, *, force: bool = True) -> None:
        """Ask the job to end as soon as it can; it does not wait for that.

        Without ``force`` one that can end successfully does, unless its work is already over.
        """
        force = force or not self.takes_soft_cancel()
        if force:
            self.cancel_in_flight()
        if self.user_paused:
            self.resume_for_user()
        if force or not self.worked:
            self.cancel_requested = True
            self.cancelled |= force
        self.wake()

    async def cancel(self, *, force: bool = True) -> None:
        """Cancel the job; one that has done its work is settled before this returns.

        One that was paused has left that state, so that the event precedes the reply as in QEMU.
        """
        self.request_cancel(force=force)
        if self.status is JobStatus.CREATED:
            self.discard()
        elif self.completed and self.cancelled:
            await self.fail_group()

    def discard(self) -> None:
        """End a job that never started: its transaction failed."""
        assert self.status is JobStatus.CREATED
        self.cancelled = self.cancel_requested = True
        self.note_result()
        self.abort()
        self.clean()
        self.set_status(JobStatus.CONCLUDED)
        self.vanish()

    async def early_fail(self) -> None:
        """End a job that could not be set up: its command reports why (job_early_fail)."""
        assert self.status is JobStatus.CREATED
        self.abort()
        self.clean()
        await self.restore()
        self.vanish()

    def vanish(self) -> None:
        """Dismiss the job, which never started."""
        self.set_status(JobStatus.NULL)
        self.txn.remove_job(self)
        self.host.forget_job(self)

    async def wait(self) -> None:
        """Return when the job's work has ended (not: when it has concluded)."""
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def started(self) -> bool:
        """Whether the job ever worked."""
        return self._task is not None

    def parent_description(self) -> str:
        """Name the job in messages about permissions."""
        return f"{self.type_name} job '{self.id}'"

    @property
    def is_ready(self) -> bool:
        """Whether the job may be completed (job-complete)."""
        return self.status in (JobStatus.READY, JobStatus.STANDBY)

    def become_ready(self) -> None:
        """Say that from now on the job may be completed (job-complete)."""
        self.set_status(JobStatus.READY)
        self.announce_ready()

    # Ending.

    def report_drain(self) -> None:
        """Report the drain of all nodes at the end of the emulator."""
        if self.status in PAUSED_FORM and not self.worked:
            self.set_status(PAUSED_FORM[self.status])
            self.set_status(RESUMED_FORM[self.status])

    async def _main(self) -> None:
        try:
            await self.pause_point()
            if not self.cancelled:
                await self.host.points.reach("job.start", job=self.id)
                await self.run()
                await self.host.points.reach("job.ran", job=self.id)
        except Exception as error:  # noqa: BLE001 - a bug ends the job; it must not stay unfinished
            self.fail(error)
        finally:
            self.worked = True
            self._resting.set()
        try:
            async with self.host.ending():
                await self.complete_work()
        except Exception:  # noqa: BLE001 - nobody waits for the task who could report it
            _log.exception("job %s: internal error while it was settled", self.id)

    def address_of(self, child: str) -> str:
        """Return the job's id and what the node is to it: ``backup0.target``."""
        return f"{self.id}.{child}"

    def info(self) -> dict[str, Any]:
        """Return JobInfo."""
        info = {
            "id": self.id,
            "type": self.type_name,
            "status": str(self.status),
            "current-progress": self.current_progress,
            "total-progress": self.total_progress,
        }
        if self.error is not None:
            info["error"] = self.error
        return info
