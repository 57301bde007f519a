"""An asyncio event loop without a world: virtual time, and an order of callbacks from a seed.

Invariants:

* The same seed and the same program give the same run. (A program that iterates over a set of
  strings is not the same twice; ``PYTHONHASHSEED`` makes it so.)
* Of the callbacks that are ready any may be next, unless ``keep_order``. asyncio promises order
  only to protocols and transports, and there are none here.
* Each turn takes ``TICK`` seconds. When nothing is ready, time jumps to the next timer.
* When nothing is ready and no timer is set, nothing can ever happen: ``DeadlockError``. A run that
  does not end is stopped after ``max_turns``: ``LivelockError``.
* What runs in an executor runs here, later: no threads.
* A run leaves nothing behind: tasks that are still there at its end, and exceptions that nobody
  took, are failures.

``asyncio.BaseEventLoop`` does the rest; ``_run_once`` and the queues it uses are what is replaced.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from blkxact.runtime.clock import SystemClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK = 1e-6
"""Virtual seconds that a turn takes: who waits for a timer by spinning gets there."""
MAX_TURNS = 20_000_000
EPOCH_US = 1_500_000_000_000_000
"""Virtual time starts then (microseconds since 1970)."""
EXECUTOR_DELAY = 1e-3
"""Virtual seconds that a call in an executor takes at most."""


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set."""


class LivelockError(AssertionError):
    """The run has not come to an end."""


class LeftBehindError(AssertionError):
    """Tasks were still there when the main coroutine had returned."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop. ``random`` is the source of all that happens by chance in the simulated world."""

    # The parts of BaseEventLoop that are used and that its stub leaves out.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(
        self, seed: int = 0, *, keep_order: bool = False, max_turns: int = MAX_TURNS
    ) -> None:
        super().__init__()
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.keep_order = keep_order
        self.max_turns = max_turns
        self.turns = 0
        self.unhandled: list[BaseException] = []
        self._now = 0.0
        self.clock = SystemClock(self, epoch_us=EPOCH_US)
        self._tasks_made = 0
        self._task_numbers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = (
            weakref.WeakKeyDictionary()
        )
        self.set_task_factory(cast("Any", self._make_task))
        self.set_exception_handler(self._note_exception)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done, in the order they were made."""
        return sorted(asyncio.all_tasks(self), key=lambda task: self._task_numbers.get(task, 0))

    def check_nothing_left(self) -> None:
        """Raise ``LeftBehindError`` if there are tasks that are not done."""
        if self.tasks():
            raise LeftBehindError(f"tasks were left behind {self._state()}")

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - there are no threads
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call ``func`` on the loop at a later turn.

        A cancelled call may have been made or not, as with threads.
        """
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled() and self.random.random() < 0.5:
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        if self.random.random() < 0.5:
            self.call_soon(work)
        else:
            self.call_later(self.random.random() * EXECUTOR_DELAY, work)
        return future

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self._tasks_made += 1
        self._task_numbers[task] = self._tasks_made
        return task

    def _note_exception(
        self,
        loop: asyncio.AbstractEventLoop,  # noqa: ARG002 - asyncio's signature
        context: dict[str, Any],
    ) -> None:
        error = context.get("exception")
        message = context.get("message", "")
        if error is None:
            error = RuntimeError(message)
        else:
            error.add_note(f"not handled: {message}")
        self.unhandled.append(error)

    def _run_once(self) -> None:
        """Run one ready callback; asyncio's loop calls this until it is stopped."""
        self._now += TICK
        self.turns += 1
        self._collect_timers()
        if not self._ready and not self._stopping:
            if not self._scheduled:
                raise DeadlockError(f"deadlock: nothing can ever happen again {self._state()}")
            self._now = max(self._now, self._scheduled[0].when())
            self._collect_timers()
        if self.turns > self.max_turns:
            raise LivelockError(f"no end after {self.turns} turns {self._state()}")
        if self._ready:
            if not self.keep_order:
                self._ready.rotate(-self.random.randrange(len(self._ready)))
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()  # noqa: SLF001 - the loop's side of a handle

    def _collect_timers(self) -> None:
        """Make due timers ready, and drop cancelled ones that stand at the head."""
        while self._scheduled:
            timer = self._scheduled[0]
            if not timer.cancelled() and timer.when() > self._now:
                break
            heapq.heappop(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]  # noqa: SLF001
            if not timer.cancelled():
                self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it in the heap: cancelled timers are dropped when they come to its head."""

    def _process_events(self, event_list: object) -> None:
        """There are no selectors."""

    def _write_to_self(self) -> None:
        """There are no other threads to wake the loop."""

    def _state(self) -> str:
        lines = [f"(seed {self.seed}, turn {self.turns}, time {self._now:.6f})"]
        lines += [f"  {task.get_name()} waits {_place(task)}" for task in self.tasks()]
        return "\n".join(lines)


def run_simulated(
    main: Coroutine[Any, Any, T] | Callable[[SimulatedLoop], Coroutine[Any, Any, T]],
    seed: int = 0,
    *,
    keep_order: bool = False,
    max_turns: int = MAX_TURNS,
) -> T:
    """Run a coroutine (or what a function of the loop returns) to its end; return its result.

    Raises what it raises, with the seed noted, and for a breach of this module's invariants.
    """
    if _is_loop_running():
        if not callable(main):
            main.close()
        raise RuntimeError("a simulation cannot run inside of a running event loop")
    loop = SimulatedLoop(seed, keep_order=keep_order, max_turns=max_turns)
    try:
        coroutine = main(loop) if callable(main) else main
        result = loop.run_until_complete(coroutine)
        loop.check_nothing_left()
    except BaseException as error:
        end_loop(loop)
        error.add_note(f"simulated with seed {seed}")
        raise
    end_loop(loop)
    if loop.unhandled:
        text = f"nobody took these; simulated with seed {seed}"
        raise BaseExceptionGroup(text, loop.unhandled)
    return result


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def end_loop(loop: SimulatedLoop) -> None:
    """Cancel what is left, let it end, and close the loop."""
    try:
        left = loop.tasks()
        for task in left:
            task.cancel()
        if left:
            loop.max_turns = loop.turns + 100_000
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (DeadlockError, LivelockError):
        pass  # tasks that refuse to be cancelled; the first failure is the one to show
    finally:
        loop.close()


def _place(task: asyncio.Task[Any]) -> str:
    """Return where the task waits: function, file and line of the innermost coroutine."""
    waiting: Any = task.get_coro()
    place = "to begin"
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        code = frame.f_code
        place = f"in {code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return place


def current_loop() -> SimulatedLoop:
    """Return the running simulated loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop), "this runs in the real world"
    return loop
