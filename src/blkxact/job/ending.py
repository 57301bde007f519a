"""How jobs end: alone, or together with the group that concludes as one.

The group of a job is all jobs of its transaction if that is ``grouped``, else the job alone.

Laws:

* A group ends when the work of all its jobs is over. One failure makes it fail: the others are
  cancelled, and none commits.
* A group is settled in one synchronous stretch, its requests held: ``commit`` or ``abort``, then
  ``clean``, of each job. Then the nodes that nobody needs any more are closed. Only then do the
  jobs conclude and the events go out, so whoever hears that a backup is complete can open it.
* The callers hold the layer's lock, so no command sees a half-ended group.

QEMU's counterpart: job_completed(), job_completed_txn_abort() and job_do_finalize() in ``job.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from blkxact.block.drain import drained

from .states import JobStatus
from .txn import CompletionMode

if TYPE_CHECKING:
    from .job import Job

_OVER = (JobStatus.CONCLUDED, JobStatus.NULL)


async def complete(job: Job) -> None:
    """Take part in the end of the group, now that this job's work is over."""
    job.completed = True
    job.note_result()
    if job.ret or job.txn.aborting:
        await fail_group(job)
        return
    job.set_status(JobStatus.WAITING)
    group = _group_of(job)
    if not all(one.completed for one in group):
        return
    for one in group:
        one.set_status(JobStatus.PENDING)
        if not one.auto_finalize:
            one.announce_pending()
    if all(one.auto_finalize for one in group):
        await finalize(job)


async def fail_group(job: Job) -> None:
    """Cancel the other jobs of the group; settle them once the work of all is over."""
    group = _group_of(job)
    if job.txn.mode is CompletionMode.GROUPED and not job.txn.aborting:
        job.txn.aborting = True
        for other in group:
            if other is not job:
                other.request_cancel()
    if all(one.completed for one in group):
        await _settle(group)


async def finalize(job: Job) -> None:
    """Do the last work of the group that can fail, then settle it."""
    group = _group_of(job)
    for one in group:
        try:
            await one.finalize_prepare()
        except OSError as error:
            one.fail(-(error.errno or errno.EIO), None)
            one.note_result()
            await fail_group(one)
            return
    await _settle(group)


def _group_of(job: Job) -> list[Job]:
    """Return the jobs that conclude together with this one, the latest first as in QEMU."""
    if job.txn.mode is not CompletionMode.GROUPED:
        return [job]
    jobs: list[Job] = [one for one in job.txn.jobs if one.status not in _OVER]  # type: ignore[misc]
    return jobs[::-1]


async def _settle(group: list[Job]) -> None:
    async with drained(node for job in group for node in job.nodes()):
        for job in group:
            if job.cancelled and not job.ret:
                job.ret = -errno.ECANCELED
            if job.ret:
                job.abort()
            else:
                job.commit()
            job.clean()
    host = group[0].host
    await host.close_unused_nodes()
    for job in group:
        job.conclude()
    # The last job to conclude may have let go of what the whole transaction kept alive.
    await host.close_unused_nodes()
