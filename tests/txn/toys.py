"""A toy host and toy jobs: a job ends when the test says so, with the code it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from blkxact.job.job import Job
from blkxact.job.txn import JobTxn
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.points import Points
from blkxact.runtime.trace import no_trace


class ToyHost:
    """A host without nodes; it keeps the events and who was settled how."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.trace = no_trace
        self.points = Points()
        self.lock = asyncio.Lock()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.jobs: dict[str | None, Job] = {}
        self.log: list[str] = []

    def ending(self) -> asyncio.Lock:
        return self.lock

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        self.events.append((event, data))

    def name_job(self, job_id: str | None, node: object) -> str:
        return job_id or "unnamed"

    def add_job(self, job: Job) -> None:
        self.jobs[job.id] = job

    def forget_job(self, job: Job) -> None:
        self.jobs.pop(job.id, None)

    async def close_unused_nodes(self) -> None:
        await asyncio.sleep(0)

    def statuses(self, job_id: str) -> list[str]:
        return [
            str(data["status"])
            for event, data in self.events
            if event == "JOB_STATUS_CHANGE" and data["id"] == job_id
        ]


class ToyJob(Job):
    """Works until ``end`` is called; then ends with that errno."""

    type_name = "toy"

    def __init__(self, host: ToyHost, name: str, txn: JobTxn, **kwargs: Any) -> None:
        self.log = host.log
        self.code = 0
        self.may_end = asyncio.Event()
        super().__init__(host, name, txn, **kwargs)

    def end(self, code: int = 0) -> None:
        self.code = code
        self.may_end.set()
        self.kick()

    async def run(self) -> None:
        while not self.may_end.is_set() and not self.cancelled:
            await self.pause_point()
            if not self.may_end.is_set():
                await self.sleep(None)
        if self.code and not self.cancelled:
            raise OSError(self.code, os.strerror(self.code))

    def commit(self) -> None:
        self.log.append(f"commit {self.id}")

    def abort(self) -> None:
        self.log.append(f"abort {self.id}")

    def clean(self) -> None:
        self.log.append(f"clean {self.id}")


async def settle(*jobs: Job) -> None:
    """Wait for the work and the ending of the jobs."""
    for job in jobs:
        await job.wait()
