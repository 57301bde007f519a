"""Progress bars of jobs, for people: fed with what ``query-jobs`` and events say.

On a terminal each job has a bar that moves; elsewhere (a pipe, a log) each job gets a line when it
starts and a line when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from .sizes import human_size

ENDINGS: Final = {
    "BLOCK_JOB_COMPLETED": "completed",
    "BLOCK_JOB_CANCELLED": "cancelled",
}
_STYLES: Final = {"completed": "green", "cancelled": "yellow", "failed": "red", "ended": "dim"}


class JobBoard:
    """A context manager: inside it the bars are drawn, afterwards they stay as they ended."""

    def __init__(
        self, console: Console, *, now: Callable[[], float] = time.monotonic, keep: bool = True
    ) -> None:
        self._console = console
        self._live = console.is_terminal
        self._now = now
        self._progress = Progress(
            TextColumn("  {task.fields[name]:16}"),
            TextColumn("{task.fields[kind]:7}"),
            BarColumn(bar_width=36),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:>12}"),
            TextColumn("{task.fields[state]}"),
            console=console,
            auto_refresh=False,
            transient=not keep,
        )
        self._jobs: dict[str, _Job] = {}
        self.outcomes: dict[str, str] = {}
        """What became of each job that ended: completed, cancelled, ``failed: `` and why."""

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._progress.stop()

    @property
    def busy(self) -> bool:
        """Whether a job that was seen has not ended."""
        return any(job.ending is None for job in self._jobs.values())

    def show(self, jobs: list[dict[str, Any]]) -> None:
        """Take the answer of ``query-jobs``; give the events from before it to ``note`` first."""
        for info in reversed(jobs):  # the server tells the latest first
            job = self._job(info["id"], info["type"])
            job.move(info["current-progress"], info["total-progress"], self._now())
            if info["status"] == "concluded":
                self._end(job, _verdict(info, "completed"))
            elif job.ending is None:
                self._draw(job, info["status"])
        for name in self._jobs.keys() - {info["id"] for info in jobs}:
            self._end(self._jobs.pop(name), "ended")
        self._refresh()

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event; those of block jobs tell how one ended and how far it came."""
        if event["event"] not in ENDINGS:
            return
        data = event["data"]
        job = self._job(data["device"], data["type"])
        job.move(data["offset"], data["len"], self._now())
        self._end(job, _verdict(data, ENDINGS[event["event"]]))
        self._refresh()

    def _job(self, name: str, kind: str) -> _Job:
        if name not in self._jobs:
            task = self._progress.add_task("", name=name, kind=kind, rate="", state="", total=None)
            self._jobs[name] = _Job(name, task, self._now())
            self.outcomes.pop(name, None)
            if not self._live:
                self._console.print(f"  {name}: {kind} started")
        return self._jobs[name]

    def _end(self, job: _Job, ending: str) -> None:
        if job.ending is not None:
            return
        job.ending = ending
        self.outcomes[job.name] = ending
        style = _STYLES[ending.partition(":")[0]]
        self._draw(job, f"[{style}]{ending}[/]")
        if not self._live:
            self._console.print(f"  {job.name}: {ending} ({human_size(job.current)} copied)")

    def _draw(self, job: _Job, state: str) -> None:
        total = job.total or None
        current = job.current
        if job.ending == "completed" and not total:
            total = current = 1  # nothing to do is done
        self._progress.update(
            job.task, completed=current, total=total, rate=job.rate(), state=state
        )

    def _refresh(self) -> None:
        if self._live:
            self._progress.refresh()


class _Job:
    """What was last heard of one job."""

    def __init__(self, name: str, task: TaskID, started: float) -> None:
        self.name = name
        self.task = task
        self.current = 0
        self.total = 0
        self.ending: str | None = None
        self._started = started
        self._heard = started

    def move(self, current: int, total: int, now: float) -> None:
        """Take a new state of progress, in bytes."""
        if self.ending is None:
            self.current, self.total, self._heard = current, total, now

    def rate(self) -> str:
        """Return the mean speed as text."""
        seconds = self._heard - self._started
        return f"{human_size(self.current / seconds)}/s" if seconds > 0 and self.current else ""


def _verdict(told: Mapping[str, Any], ending: str) -> str:
    return f"failed: {told['error']}" if "error" in told else ending
