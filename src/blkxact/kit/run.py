"""One emulator from its start to its end, in a thread that has an event loop of its own.

Invariants:

* Only the thread touches the emulator. Others hand it work (``call``) and wait for the result.
* ``kill`` ends it between two steps of the loop, as ``kill -9`` ends a process between two
  instructions: the files are closed and the connections cut first, so whatever still runs while
  the loop is dismantled changes nothing.
* A call that waits when the emulator is killed gets ``KitError``.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from blkxact.daemon import Daemon
from blkxact.harness import ErrorLog
from blkxact.machine.options import ServeOptions
from blkxact.runtime.clock import Clock
from blkxact.runtime.counts import LayerStatistics

from .errors import KitError
from .storage import KitStorage

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 60.0
"""Seconds after which work that was handed to the emulator is taken never to end."""
_MAX_UNWINDING: Final = 100
"""Times that a coroutine is thrown out of, as it may wait again while it unwinds."""
_LAST_TURNS: Final = 10
"""Turns in which the transports of an emulator that has ended close their sockets."""
_OWN_SOCKETS: Final = 1
"""By which other threads wake up the loop."""


class Run:
    """An emulator that runs. ``prepare`` is called with the daemon before anything is made."""

    def __init__(
        self,
        options: ServeOptions,
        clock: Clock,
        prepare: Callable[[Daemon], None],
        while_paused: Callable[[], str | None],
        storage: KitStorage,
    ) -> None:
        """Start it; returns when clients are served. Raises ``QmpError``."""
        self._options = options
        self._clock = clock
        self._prepare = prepare
        self._while_paused = while_paused
        self.errors: list[str] = []
        """Errors of the emulator itself: what it logged, and what nobody handled."""
        self.killed = False
        self._calls: dict[Future[Any], int] = {}
        """With the thread that waits for each."""
        self._ready: Future[None] = Future()
        self._over = False
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self.storage = storage
        self.daemon = Daemon(
            options,
            on_ready=lambda _addresses: self._ready.set_result(None),
            storage=storage,
            descriptors=storage.descriptors,
            clock=clock,
            rng=random.Random(1),  # noqa: S311 - names of nodes, the same in each run
        )
        self.layer = self.daemon.layer
        self._thread = threading.Thread(target=self._main, name="blkxact", daemon=True)
        self._thread.start()
        try:
            self._ready.result(CALL_TIMEOUT_S)
        except BaseException:
            self._thread.join(CALL_TIMEOUT_S)
            raise

    # From other threads

    @property
    def alive(self) -> bool:
        """Whether the emulator runs."""
        return self._thread.is_alive() and not self._over

    def call(self, work: Callable[[], Awaitable[T]], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Return what ``work`` does in the emulator's thread, or raise what it raises."""
        where = self._while_paused()
        if where is not None:
            raise _standing_still(where)
        future: Future[T] = Future()
        self._calls[future] = threading.get_ident()
        self._hand_over(lambda: self._begin(work, future))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
            raise KitError(f"the emulator has not answered for {timeout_s:g} s") from None
        finally:
            self._calls.pop(future, None)

    def stop(self) -> None:
        """End the emulator in good order, as SIGTERM does; return when it is gone."""
        with suppress(KitError):
            self._hand_over(lambda: self.daemon.on_signal(signal.SIGTERM))
        self._thread.join(CALL_TIMEOUT_S)
        if self._thread.is_alive():
            self.errors.append(f"the emulator has not ended for {CALL_TIMEOUT_S:g} s")

    def kill(self) -> None:
        """End the emulator as ``kill -9`` does; return when it is gone."""
        with suppress(KitError):
            self._hand_over(self.die)
        self.join()

    def lose_power(self, seed: int) -> list[str]:
        """Let the power have failed when it was killed; return the files that this changed."""
        return self.storage.lose_power(random.Random(seed))  # noqa: S311 - seeded

    def join(self) -> None:
        """Return when the emulator is gone."""
        self._thread.join(CALL_TIMEOUT_S)

    def interrupt(self, thread: int, where: str) -> None:
        """End the calls of a thread: the emulator stands still, and only that thread can help."""
        for future, waiting in list(self._calls.items()):
            if waiting == thread and not future.done():
                future.set_exception(_standing_still(where))

    def _hand_over(self, function: Callable[[], None]) -> None:
        if not self.alive:
            raise KitError("the emulator does not run; restart() starts it again")
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError as error:
            raise KitError("the emulator does not run any more") from error

    # In the thread

    def die(self) -> None:
        """Close all files, cut all connections and stop the loop."""
        if not self.killed:
            self.killed = True
            self.storage.sever()
            self.daemon.sever()
            self._loop.stop()

    def _begin(self, work: Callable[[], Awaitable[T]], future: Future[T]) -> None:
        async def run() -> None:
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - it belongs to who asked
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        task = self._loop.create_task(run())
        task.add_done_callback(lambda _: None)

    def _main(self) -> None:
        handler = ErrorLog(self.errors.append, threading.get_ident())
        handler.begin()
        self._loop.set_exception_handler(self._note)
        try:
            main = self._loop.create_task(self._serve())
            main.add_done_callback(lambda _: self._loop.stop())
            self._loop.run_forever()
            if self.killed:
                self._dismantle()
            else:
                self._take_turns()
                self._note_descriptors()
        finally:
            self._over = True
            handler.end()
            self._loop.close()
            gone = KitError("the emulator ended before it had answered")
            for future in (self._ready, *list(self._calls)):
                if not future.done():
                    future.set_exception(gone)

    async def _serve(self) -> None:
        try:
            self._prepare(self.daemon)
            stored = await self.daemon.run()
            if not stored:
                self.errors.append("not everything was stored at the end")
        except Exception as error:  # noqa: BLE001 - whoever started it is to know
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                self.errors.append(f"the emulator ended with {error!r}")
        finally:
            if not self.killed:
                self.storage.close()
        left = self.layer.statistics()
        if left != LayerStatistics():
            self.errors.append(f"after the emulator's end there is still something: {left}")

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep an error that nobody handled."""
        del loop
        if not self.killed:
            self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def _dismantle(self) -> None:
        """Unwind all coroutines, which can do no harm any more; then let the sockets close."""
        self._loop.set_task_factory(_no_task)
        self._loop.call_soon(self._unwind)
        self._take_turns()

    def _take_turns(self) -> None:
        """Let the transports close their sockets."""
        for _ in range(_LAST_TURNS):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def _note_descriptors(self) -> None:
        """Note the descriptors that an emulator has left open which has ended in good order."""
        self.errors += [
            f"after the emulator's end a descriptor of {file.path} is open"
            for file in self.storage.open_files
        ]
        sockets = len(self._selector.get_map()) - _OWN_SOCKETS
        if sockets > 0:
            self.errors.append(f"after the emulator's end {sockets} sockets are open")

    def _unwind(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            coroutine: Any = task.get_coro()
            for _ in range(_MAX_UNWINDING):
                try:
                    coroutine.close()
                    break
                except BaseException:  # noqa: BLE001, S112 - nobody is left whom it concerns
                    continue


def _standing_still(where: str) -> KitError:
    return KitError(f"the emulator stands still at {where}")


def _no_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **_options: Any) -> Any:
    """Start nothing more: what unwinds may want to go on in a task of its own."""
    coroutine.close()
    never = loop.create_future()
    never.cancel()
    return never
