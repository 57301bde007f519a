"""Pausing a job, for its client or while its nodes are drained, and waking it up.

Invariants:

* A job stops only where it asks to (``pause_point``); a request inside a driver is never aborted.
* Only a pause that a client or an error policy asked for changes the status; a drain does so only
  if the job is started in it, as the jobs of a transaction are, and at the end of the emulator.
* A resume or a cancel changes the status at once, before its command is answered.
* A cancelled job does not rest.

QEMU's counterpart: job_pause_point(), job_yield() and job_sleep_ns() in ``job.c``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from blkxact.block.child import Parent
from blkxact.enums import JobStatus
from blkxact.runtime.clock import Clock
from blkxact.runtime.points import Points

from .states import PAUSED_FORM, RESUMED_FORM


class Pausing(Parent, ABC):
    """The part of a job that rests and wakes up. As a parent of nodes it is quiesced by drains."""

    stay_at_node = True

    def __init__(self, clock: Clock, points: Points) -> None:
        self._clock = clock
        self._points = points
        self.status = JobStatus.UNDEFINED
        self.cancelled = False
        """The job ends as soon as it can, and has failed."""
        self.pause_count = 1
        self.user_paused = False
        self._quiesced = 0
        self._at_pause_point = False
        self._shown = False
        """The status says that the job is paused."""
        self._wake = asyncio.Event()
        self._resting = asyncio.Event()
        self._resting.set()

    id: str | None
    """None: clients do not see the job."""

    @abstractmethod
    def set_status(self, status: JobStatus) -> None:
        """Change the status, by the table."""

    @property
    def is_paused(self) -> bool:
        """Whether the job was asked to pause."""
        return self.pause_count > 0

    @property
    def is_quiesced(self) -> bool:
        """Whether a node of the job is drained: for long only by a mirror that is pending."""
        return self._quiesced > 0

    def pause_for_user(self) -> None:
        """Pause until ``resume_for_user``; a second call changes nothing."""
        if not self.user_paused:
            self.user_paused = True
            self.pause_count += 1
            self._wake.set()

    def resume_for_user(self) -> None:
        """Undo ``pause_for_user``."""
        self.user_resumed()
        self.user_paused = False
        self.pause_count -= 1
        self.wake()

    def user_resumed(self) -> None:
        """Forget the error that paused the job."""

    def quiesce(self) -> None:
        """Stop at the next pause point, without telling clients."""
        self._quiesced += 1
        self._wake.set()

    def resume(self) -> None:
        """Undo one ``quiesce``."""
        assert self._quiesced > 0
        self._quiesced -= 1
        self.wake()

    def is_idle(self) -> bool:
        """Return whether no request of the job is under way."""
        return self._resting.is_set()

    async def idle(self) -> None:
        """Return when no request of the job is under way."""
        await self._resting.wait()

    def must_rest(self) -> bool:
        """Whether the job shall make no further request now."""
        return (self.is_paused or self._quiesced > 0) and not self.cancelled

    async def pause_point(self) -> None:
        """Rest here while the job is paused or quiesced. A cancelled job goes on."""
        points = self._points
        if points.listening:
            await points.reach("job.step", job=self.id)
        if not self.must_rest():
            return
        points.hit("job.paused", job=self.id)
        while self.must_rest():
            self._at_pause_point = True
            self._resting.set()
            if self.is_paused:
                self._show_pause()
            self._wake.clear()
            await self._wake.wait()
        self._leave_pause_point()
        if points.listening:
            await points.reach("job.resumed", job=self.id)

    def begin_work(self) -> None:
        """Start with a pause point: report a drain in which the job is started."""
        self._resting.clear()
        if self._quiesced:
            self._at_pause_point = True
            self._show_pause()

    def wake(self) -> None:
        """Look again whether the job shall rest: something has changed."""
        if self._at_pause_point and not self.must_rest():
            self._leave_pause_point()
        self._wake.set()

    def _show_pause(self) -> None:
        if not self._shown:
            self._shown = True
            self.set_status(PAUSED_FORM[self.status])

    def _leave_pause_point(self) -> None:
        self._at_pause_point = False
        self._resting.clear()
        if self._shown:
            self._shown = False
            self.set_status(RESUMED_FORM[self.status])

    async def sleep(self, seconds: float | None, *, resting: bool = True) -> None:
        """Sleep for ``seconds`` (None: forever) or until something happens to the job.

        ``resting`` says that no request of the job is under way meanwhile.
        """
        self._wake.clear()
        if self.cancelled or self.must_rest():
            return
        if resting:
            self._resting.set()
        timer = None
        if seconds is not None:
            timer = self._clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            self._resting.clear()

    def kick(self) -> None:
        """End a ``sleep``."""
        self._wake.set()
