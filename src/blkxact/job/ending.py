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
from typing import TYPE_CHECKING

from blkxact.block.drain import drained
from blkxact.enums import JobStatus
from blkxact.settle import Settling

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
    if job.txn.policy.concludes_as_group and not job.txn.aborting:
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
            await one.host.points.reach("job.prepare", job=one)
            await one.finalize_prepare()
        except Exception as error:  # noqa: BLE001 - a bug fails the job as an error does
            one.fail(error)
            one.note_result()
            await fail_group(one)
            return
    await _settle(group)


def _group_of(job: Job) -> list[Job]:
    """Return the jobs that conclude together with this one, the latest first as in QEMU."""
    if not job.txn.policy.concludes_as_group:
        return [job]
    jobs: list[Job] = [one for one in job.txn.jobs if one.status not in _OVER]  # type: ignore[misc]
    return jobs[::-1]


async def _settle(group: list[Job]) -> None:
    host = group[0].host
    with Settling("the end of a group of jobs") as settling:
        async with drained(node for job in group for node in job.nodes()):
            for job in group:
                _settle_one(job, settling)
        await host.close_unused_nodes()
        for job in group:
            settling.call(job.conclude)
        # The last job to conclude may have released what the whole transaction kept alive.
        await host.close_unused_nodes()


def _settle_one(job: Job, settling: Settling) -> None:
    if job.cancelled and not job.ret:
        job.ret = -errno.ECANCELED
    points = job.host.points
    settling.call(points.hit, "job.abort" if job.ret else "job.commit", job=job)
    bug = settling.call(job.abort if job.ret else job.commit)
    if bug is not None and not job.ret:
        job.fail(bug)  # what the events report must not be success
    settling.call(points.hit, "job.clean", job=job)
    settling.call(job.clean)
