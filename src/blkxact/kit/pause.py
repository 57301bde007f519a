"""Letting a whole emulator stand still at a point, and a job between two pieces of its work.

Invariants:

* While the emulator stands still its thread waits: nothing of it runs, whatever the point.
* It goes on when the context is left, and it can be killed where it stands.
* A call of the thread that made it stand still does not wait for it in vain: ``KitError``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from blkxact.block_layer import BlockLayer
from blkxact.runtime.clock import SystemClock

from .errors import KitError
from .places import Facts, Place, Posts, find_place

PAUSE_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.002
STEP_TIMEOUT_S: Final = 20.0
"""Seconds that one piece of a job may take."""


class KilledError(BaseException):
    """The emulator was killed where it stood still: unwinds whatever was going on there."""


class Pauses:
    """The places where an emulator is to stand still, and where it does."""

    def __init__(
        self, posts: Posts, die: Callable[[], None], interrupt: Callable[[int, str], None]
    ) -> None:
        self.posts = posts
        self._die = die
        self._interrupt = interrupt
        """Ends the calls of a thread that waits for the emulator."""
        self._standing: Pause | None = None

    @property
    def where(self) -> str | None:
        """Where the emulator stands still, if it does."""
        pause = self._standing
        return None if pause is None or pause.over.is_set() else pause.place.name

    def stand(self, pause: Pause) -> None:
        """Stand still until the pause is over (in the emulator's thread)."""
        self._standing = pause
        self._interrupt(pause.owner, pause.place.name)
        pause.reached.set()
        pause.over.wait()
        self._standing = None
        if pause.deadly:
            self._die()
            raise KilledError

    def kill(self) -> bool:
        """Kill the emulator where it stands still; return whether it does."""
        pause = self._standing
        if pause is None:
            return False
        pause.deadly = True
        pause.over.set()
        return True

    def go_on(self) -> None:
        """Let the emulator go on if it stands still."""
        pause = self._standing
        if pause is not None:
            pause.over.set()


class Pause:
    """A place where the emulator stands still once; a context manager, also an asynchronous one."""

    def __init__(self, pauses: Pauses, place: Place, nth: int) -> None:
        self.place = place
        self.owner = threading.get_ident()
        self.reached = threading.Event()
        self.over = threading.Event()
        self.deadly = False
        self._pauses = pauses
        self._wait = nth
        self._end: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._end = self._pauses.posts.add(self.place, self._pass)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        self.over.set()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def wait(self, timeout: float = PAUSE_TIMEOUT_S) -> None:
        """Return once the emulator stands still; raises ``KitError`` if it has not by then."""
        if not self.reached.wait(timeout):
            raise KitError(f"{self.place.name} was not reached within {timeout:g} s")

    async def arrive(self, timeout: float = PAUSE_TIMEOUT_S) -> None:  # noqa: ASYNC109 - as ``wait``
        """Do the same in an asyncio test, whose loop goes on meanwhile."""
        await asyncio.to_thread(self.wait, timeout)

    def _pass(self, facts: Facts) -> None:
        del facts
        self._wait -= 1
        if self._wait == 0 and not self.over.is_set():
            self._pauses.stand(self)


class Steps:
    """Jobs that stand between two pieces of their work until a test lets them do one."""

    def __init__(self, posts: Posts) -> None:
        self._posts = posts
        self._go: dict[str, asyncio.Event] = {}
        """The jobs that are held, with what lets each do a piece."""
        self._standing: set[str] = set()
        self._known: set[str] = set()
        """Those that have stood: they are over if they are not there any more."""
        self._end: Callable[[], None] | None = None

    async def step(self, layer: BlockLayer, job: str) -> bool:
        """Let a job do one piece; return whether it stands again, or is yet to start."""
        if self._end is None:
            self._end = self._posts.add(find_place("job.step", {}), self._pass)
        if job not in self._go:
            self._go[job] = asyncio.Event()
        elif job in self._standing:
            self._standing.remove(job)
            self._go[job].set()
        clock = SystemClock()
        end = clock.monotonic() + STEP_TIMEOUT_S
        while (found := layer.jobs.get(job)) and not found.worked and job not in self._standing:
            if clock.monotonic() > end:
                raise KitError(f"the job {job!r} has not come to an end of its piece")
            await clock.sleep(POLL_S)
        is_over = found.worked if found is not None else job in self._known
        if is_over:
            self._go.pop(job)
            self._known.discard(job)
        return not is_over

    async def release(self, job: str) -> None:
        """Let a job go on by itself."""
        go = self._go.pop(job, None)
        if go is not None:
            self._standing.discard(job)
            go.set()

    async def release_all(self) -> None:
        """Let all jobs go on."""
        for job in list(self._go):
            await self.release(job)

    def forget(self) -> None:
        """Forget the jobs of an emulator that is gone."""
        self._go.clear()
        self._standing.clear()
        self._known.clear()

    def _pass(self, facts: Facts) -> asyncio.Future[None] | None:
        job = facts["job"]
        go = self._go.get(job)
        if go is None:
            return None
        return asyncio.ensure_future(self._hold(job, go))

    async def _hold(self, job: str, go: asyncio.Event) -> None:
        self._standing.add(job)
        self._known.add(job)
        go.clear()
        await go.wait()
