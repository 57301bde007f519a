"""A sweep: one run without faults, then a case for each fault that its record gives rise to.

Cases depend on nothing but the scenario, so they run in several processes (any
``concurrent.futures.Executor`` would do) and in any order. Their directories are in one scratch
directory, which is gone at the end.

Invariant: when a sweep ends, for whatever reason, no process and no directory of it is left.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from blkxact.storage.libc import die_with_parent

from .case import Case, Result, Verdict, run_case
from .faults import in_order
from .scenario import Scenario
from .store import Store

AHEAD: Final = 3
"""Cases for each worker that are given to the executor before they can run."""


class BaselineError(Exception):
    """Without any fault the tool does not do what it should."""


class Sweep:
    """The cases of one scenario. Use it as a context."""

    def __init__(
        self, scenario: Scenario, *, seed: int = 1, workers: int = 1, store: Store | None = None
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self._workers = workers
        self._store = store
        self._stack = ExitStack()
        self.reused = 0
        """Verdicts that were known before."""

    def __enter__(self) -> Sweep:
        """Make the scratch directory."""
        scratch = tempfile.TemporaryDirectory(prefix="blkxact-prove-", ignore_cleanup_errors=True)
        self._scratch = Path(self._stack.enter_context(scratch))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all that is left."""
        self._stack.close()

    def baseline(self) -> Result:
        """Run without faults; raises ``BaselineError`` unless all calls succeed and restore."""
        result = run_case(self.scenario, Case((), self.seed), self._scratch)
        for call in result.calls:
            how = "; ".join(call.wrong) if call.wrong else call.printed
            if call.ended != "ok" or call.wrong:
                raise BaselineError(
                    f"without any fault call {call.number} ({call.verb}) {call.ended}: {how}"
                )
        if result.verdict is Verdict.CRASH:
            raise BaselineError(f"without any fault the emulator fails: {result.notes[0]}")
        self._baseline = result
        return result

    def cases(self) -> list[Case]:
        """Return a case for each fault, those first that are likely to show something new."""
        return [Case((fault,), self.seed) for fault in in_order(self._baseline.passings)]

    def run(self, cases: Sequence[Case], *, until: float | None = None) -> Iterator[Result]:
        """Yield the results as they come. At ``until`` (monotonic) no more cases are begun."""
        waiting = []
        for case in cases:
            known = None if self._store is None else self._store.find(case)
            if known is None:
                waiting.append(case)
            else:
                self.reused += 1
                yield known
        for result in self._run(waiting, until):
            if self._store is not None:
                self._store.put(result)
            yield result

    def _run(self, cases: Sequence[Case], until: float | None) -> Iterator[Result]:
        if self._workers == 1 or len(cases) == 1:
            load_modules(self._baseline.modules)
            for case in cases:
                if until is not None and time.monotonic() > until:
                    return
                yield self._one(case)
        elif cases:
            yield from self._run_in_processes(cases, until)

    def _one(self, case: Case) -> Result:
        return run_case(self.scenario, case, self._scratch, self._baseline.state)

    def _run_in_processes(self, cases: Sequence[Case], until: float | None) -> Iterator[Result]:
        pids = self._scratch / "workers"
        pids.mkdir(exist_ok=True)
        executor = ProcessPoolExecutor(
            min(self._workers, len(cases)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(pids, self._baseline.modules),
        )
        left = iter(cases)
        running: set[Future[Result]] = set()
        try:
            while True:
                while len(running) < AHEAD * self._workers and (
                    until is None or time.monotonic() < until
                ):
                    case = next(left, None)
                    if case is None:
                        break
                    arguments = (self.scenario, case, self._scratch, self._baseline.state)
                    running.add(executor.submit(run_case, *arguments))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            _abort_cases(pids)
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def load_modules(names: Iterable[str]) -> None:
    """Load what the emulator needs, so that its forks have it."""
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "_pytest", "pytest")):
            with suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _begin_worker(pids: Path, modules: Sequence[str]) -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep itself is interrupted, and ends us
    signal.signal(signal.SIGTERM, _abort_case)
    (pids / str(os.getpid())).touch()
    load_modules(modules)


def _abort_case(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the case that runs; it removes what it has made."""
    del number, frame
    raise SystemExit(1)


def _abort_cases(pids: Path) -> None:
    for path in pids.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(path.name), signal.SIGTERM)


