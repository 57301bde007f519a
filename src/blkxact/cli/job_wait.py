"""Waiting for jobs to end, however they end.

A block job reports its end by an event of ``ENDINGS``. All jobs report each change of their status
by ``JOB_STATUS_CHANGE``, which says that a job ended but not why; ``query-jobs`` says that of a job
that was not dismissed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from qemu.qmp import EventListener, QMPClient

from .client import next_event
from .errors import CliError
from .job_outcome import ENDINGS, event_outcome, info_outcome

STATUS_CHANGE: Final = "JOB_STATUS_CHANGE"
EVENTS: Final = (STATUS_CHANGE, *ENDINGS)

JOB_ACTIONS: Final = ("blockdev-backup", "drive-backup")
"""The actions of transactions that start jobs."""


class JobEnd:
    """A job that is waited for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.report: Mapping[str, Any] | None = None
        """What the server said of its end: an event or an entry of ``query-jobs``."""
        self.outcome: str | None = None
        self.is_heard_of = False
        self.is_over = False
        self._is_aborting = False

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event of this job."""
        self.is_heard_of = True
        if event["event"] == STATUS_CHANGE:
            self._see(event["data"]["status"])
        else:
            self.report, self.outcome = event, event_outcome(event)

    def look(self, info: Mapping[str, Any]) -> None:
        """Take the entry of ``query-jobs``."""
        self.is_heard_of = True
        self._see(info["status"])
        if info["status"] == "concluded":
            self.report, self.outcome = info, info_outcome(info)

    def conclude(self) -> None:
        """Judge a job that is gone by the states that it went through."""
        if self.outcome is None:
            self.outcome = "failed: the reason is not known" if self._is_aborting else "completed"

    def _see(self, status: str) -> None:
        self._is_aborting |= status == "aborting"
        self.is_over |= status in ("concluded", "null")


async def wait_for_jobs(
    client: QMPClient, listener: EventListener, names: Iterable[str]
) -> list[JobEnd]:
    """Return how each of the jobs ended, when the last has.

    ``listener`` has received ``EVENTS`` since before the jobs were started. Raises ``CliError``
    when there is no job of a name.
    """
    jobs = {name: JobEnd(name) for name in names}
    await _look(client, jobs)
    while not listener.empty():
        _note(jobs, await listener.get())
    for job in jobs.values():
        if not job.is_heard_of:
            raise CliError(f"there is no job '{job.name}'")
    while not all(job.is_over for job in jobs.values()):
        _note(jobs, await next_event(client, listener))
    if any(job.outcome is None for job in jobs.values()):
        await _look(client, {job.name: job for job in jobs.values() if job.outcome is None})
    for job in jobs.values():
        job.conclude()
    return list(jobs.values())


def _note(jobs: Mapping[str, JobEnd], event: Mapping[str, Any]) -> None:
    data = event["data"]
    name = data["id"] if event["event"] == STATUS_CHANGE else data["device"]
    if name in jobs:
        jobs[name].note(event)


async def _look(client: QMPClient, jobs: Mapping[str, JobEnd]) -> None:
    for info in cast("list[dict[str, Any]]", await client.execute("query-jobs")):
        if info["id"] in jobs:
            jobs[info["id"]].look(info)


def jobs_of_transaction(arguments: Mapping[str, Any]) -> list[str]:
    """Return the ids of the jobs that a ``transaction`` starts; the default is the device's name.

    What is not an action, which the server will refuse, is left out.
    """
    actions = arguments.get("actions")
    names = []
    for action in actions if isinstance(actions, list) else []:
        if isinstance(action, dict) and action.get("type") in JOB_ACTIONS:
            data = action.get("data")
            name = (data.get("job-id") or data.get("device")) if isinstance(data, dict) else None
            names += [name] if isinstance(name, str) else []
    return names
