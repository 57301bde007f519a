"""Progress bars of jobs, for people: fed with what ``query-jobs`` and events say.

On a terminal each job has a bar that moves; elsewhere (a pipe, a log) each job gets a line when it
starts and a line when it ends. An id that is used again has one bar, with the number of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from blkxact.qapi.sizes import human_size

from .job_outcome import ENDINGS, event_outcome, info_outcome
from .pace import Pace

MAX_ENDED_BARS: Final = 12
"""Bars of jobs that ended, the latest; more would push the moving ones off the terminal."""

_STYLES: Final = {"completed": "green", "cancelled": "yellow", "failed": "red"}
_OVER: Final = ("aborting", "concluded", "null")
"""The states of a job that no longer works."""


class JobBoard:
    """A context manager: inside it the bars are drawn, afterwards they stay as they ended."""

    def __init__(
        self, console: Console, *, now: Callable[[], float] = time.monotonic, keep: bool = True
    ) -> None:
        self._console = console
        self._live = console.is_terminal
        self._now = now
        self._progress = Progress(
            TextColumn("  {task.fields[name]:16}", markup=False),
            TextColumn("{task.fields[kind]:7}", markup=False),
            BarColumn(bar_width=36),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:>12}", markup=False),
            _StateColumn("{task.fields[state]}"),
            console=console,
            auto_refresh=False,
            transient=not keep,
        )
        self._jobs: dict[str, _Job] = {}
        """The latest run of each job that has a bar."""
        self._noted: set[str] = set()
        """Jobs whose end an event reported since the last ``show``."""
        self.outcomes: dict[str, str] = {}
        """What became of the latest run of each job, if it ended (see ``job_outcome``)."""
        self.has_failed = False
        """Whether a run of a job failed, or its outcome is unknown."""

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
        """Take the answer of ``query-jobs``; give the events from before it to ``note`` first.

        Events from after it may have been given as well. So a job that ended since the last time
        and seems to work is no new run: the answer may be the older.
        """
        for info in reversed(jobs):  # the server lists the latest first
            is_new = info["status"] not in _OVER and info["id"] not in self._noted
            job = self._job(info["id"], info["type"], new_run=is_new)
            job.move(info["current-progress"], info["total-progress"], self._now())
            if info["status"] == "concluded":
                self._end(job, info_outcome(info))
            elif job.ending is None:
                self._draw(job, info["status"])
        for name in self._jobs.keys() - {info["id"] for info in jobs}:
            self._end(self._jobs[name], "ended")
        self._noted.clear()
        self._drop_old_bars()
        self._refresh()

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event; those of block jobs say how one ended and how far it got."""
        if event["event"] not in ENDINGS:
            return
        data = event["data"]
        job = self._job(data["device"], data["type"], new_run=True)
        job.move(data["offset"], data["len"], self._now())
        self._end(job, event_outcome(event))
        self._noted.add(data["device"])
        self._refresh()

    def lose(self) -> None:
        """Mark the jobs that are running: nothing more will be heard of them."""
        for job in self._jobs.values():
            self._end(job, "unknown")
        self._refresh()

    def _job(self, name: str, kind: str, *, new_run: bool) -> _Job:
        """Return the job; one that ended is followed by the next run, if this is a ``new_run``."""
        before = self._jobs.get(name)
        if before is not None and (before.ending is None or not new_run):
            return before
        run = 1
        if before is not None:
            self._remove(before)
            run = before.run + 1
        title = f"{name} ({run})" if run > 1 else name
        task = self._progress.add_task("", name=title, kind=kind, rate="", state="", total=None)
        job = self._jobs[name] = _Job(name, title, task, run)
        self.outcomes.pop(name, None)
        self._log(f"{title}: {kind} started")
        return job

    def _end(self, job: _Job, ending: str) -> None:
        if job.ending is not None:
            return
        job.ending = ending
        self.outcomes[job.name] = ending
        self.has_failed |= ending.partition(":")[0] in ("failed", "unknown")
        self._draw(job, ending)
        self._log(f"{job.title}: {ending} ({human_size(job.current)} copied)")

    def _log(self, line: str) -> None:
        if not self._live:
            self._console.print(f"  {line}", markup=False, soft_wrap=True)

    def _draw(self, job: _Job, state: str) -> None:
        total = job.total or None
        current = job.current
        if job.ending == "completed" and not total:
            total = current = 1  # nothing to do is done
        rate = job.pace.rate(job.heard)
        self._progress.update(
            job.task,
            completed=current,
            total=total,
            rate="" if rate is None else f"{human_size(rate)}/s",
            state=state,
        )

    def _drop_old_bars(self) -> None:
        ended = [job for job in self._jobs.values() if job.ending is not None]
        for job in ended[: max(0, len(ended) - MAX_ENDED_BARS)]:
            self._remove(job)

    def _remove(self, job: _Job) -> None:
        self._progress.remove_task(job.task)
        del self._jobs[job.name]

    def _refresh(self) -> None:
        if self._live:
            self._progress.refresh()


class _Job:
    """What was last heard of one run of a job."""

    def __init__(self, name: str, title: str, task: TaskID, run: int) -> None:
        self.name = name
        self.title = title
        self.task = task
        self.run = run
        self.current = 0
        self.total = 0
        self.heard = 0.0
        self.pace = Pace()
        self.ending: str | None = None

    def move(self, current: int, total: int, now: float) -> None:
        """Take a new state of progress, in bytes."""
        if self.ending is None:
            self.current, self.total, self.heard = current, total, now
            self.pace.note(current, now)


class _StateColumn(TextColumn):
    """A job's status, or in colour its outcome."""

    def render(self, task: Any) -> Text:
        state = task.fields["state"]
        return Text(state, style=_STYLES.get(state.partition(":")[0], "none"))
