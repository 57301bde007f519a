"""A sweep: one run without faults, then a case for each fault that its record gives rise to.

Cases depend on nothing but the scenario, so they run in several processes (any
``concurrent.futures.Executor`` would do) and in any order. Their directories are in one scratch
directory, which is gone at the end.

Invariant: when a sweep ends, for whatever reason, no process and no directory of it is left.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Self

from .case import run_case
from .faults import RESTARTS, Passing
from .order import in_order
from .pool import worker_pool
from .rehearsal import end_spare, prepare, run_prepared
from .results import Case, Result, Verdict
from .scenario import Scenario
from .store import Store

AHEAD: Final = 3
"""Cases for each worker that are given to the executor before they can run."""


_UNREMARKABLE: Final = frozenset({Verdict.SOUND, Verdict.HONEST})


class BaselineError(Exception):
    """Without any fault the tool does not do what it should."""


class Sweep:
    """The cases of one scenario. Use it as a context."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        seed: int = 1,
        workers: int = 1,
        store: Store | None = None,
        keep_records: bool = False,
        cluster: str | None = None,
    ) -> None:
        """``keep_records`` is needed for ``pairs``; ``cluster`` is a Dask scheduler's address."""
        self.scenario = scenario
        self.seed = seed
        self._workers = workers
        self._store = store
        self._keep_records = keep_records
        self._cluster = cluster
        self._stack = ExitStack()
        self._is_prepared = False
        self.reused = 0
        """Verdicts that were known before."""

    def __enter__(self) -> Self:
        """Make the scratch directory."""
        scratch = tempfile.TemporaryDirectory(prefix="blkxact-prove-", ignore_cleanup_errors=True)
        self._scratch = Path(self._stack.enter_context(scratch))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all that is left."""
        self._stack.close()

    def baseline(self) -> Result:
        """Run without faults; raises ``BaselineError`` unless all calls succeed and restore."""
        case = Case((), self.seed)
        result = run_case(self.scenario, case, self._scratch, keep_record=True)
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

    def pairs(self, results: Iterable[Result]) -> Iterator[Case]:
        """Yield cases of two faults, see ``pairs_after``."""
        return pairs_after(self._baseline.passings, results)

    def run(self, cases: Sequence[Case], *, until: float | None = None) -> Iterator[Result]:
        """Yield the results as they come. At ``until`` (monotonic) no more cases are begun."""
        waiting = []
        for case in cases:
            known = None if self._store is None else self._store.find(case)
            if known is None or (self._keep_records and not known.passings):
                waiting.append(case)
            else:
                self.reused += 1
                yield known
        usual = set(self._baseline.passings)
        for found in self._run(waiting, until):
            new = tuple(passing for passing in found.passings if passing not in usual)
            result = replace(found, passings=new)
            if self._store is not None:
                self._store.put(result)
            yield result

    def page(self, case: Case) -> tuple[Result, str]:
        """Run a case once more, here, with a record; return its result and its page."""
        from .page import CaseRecord  # noqa: PLC0415 - seldom wanted

        record = CaseRecord()
        self._prepare()
        result = self._call_in(case)(self._scratch, record=record)
        return result, record.page(result)

    def _run(self, cases: Sequence[Case], until: float | None) -> Iterator[Result]:
        if self._cluster is not None and cases:
            yield from self._run_on_cluster(self._cluster, cases, until)
        elif self._workers == 1 or len(cases) == 1:
            self._prepare()
            for case in cases:
                if until is not None and time.monotonic() > until:
                    return
                yield self._call(case)()
        elif cases:
            yield from self._run_in_processes(cases, until)

    @property
    def _preparation(self) -> Callable[[Path], None]:
        """What a process does before its first case; takes the scratch directory."""
        return partial(prepare, self.scenario, self._baseline.modules)

    def _prepare(self) -> None:
        """Prepare this process for cases, once."""
        if not self._is_prepared:
            self._is_prepared = True
            self._stack.callback(gc.unfreeze)
            self._stack.callback(end_spare)
            self._preparation(self._scratch)

    def _call(self, case: Case) -> Callable[[], Result]:
        return partial(self._call_in(case), self._scratch)

    def _call_in(self, case: Case) -> Callable[..., Result]:
        """Return what runs a case in a scratch directory."""
        return partial(
            run_prepared,
            self.scenario,
            case,
            normal=self._baseline.state,
            keep_record=self._keep_records,
        )

    def _run_in_processes(self, cases: Sequence[Case], until: float | None) -> Iterator[Result]:
        workers = min(self._workers, len(cases))
        with worker_pool(workers, self._scratch, self._preparation) as executor:
            calls = map(self._call, cases)
            yield from _run_ahead(executor, workers, calls, until)

    def _run_on_cluster(
        self, address: str, cases: Sequence[Case], until: float | None
    ) -> Iterator[Result]:
        from .cluster import cluster_executor, run_on_worker  # noqa: PLC0415 - an extra

        with cluster_executor(address, self._preparation) as (executor, threads):
            calls = (partial(run_on_worker, self._call_in(case)) for case in cases)
            yield from _run_ahead(executor, threads, calls, until)


def _run_ahead(
    executor: Executor, workers: int, calls: Iterator[Callable[[], Result]], until: float | None
) -> Iterator[Result]:
    """Yield the results as they come; only a few cases are given to the executor ahead."""
    running: set[Future[Result]] = set()
    while True:
        room = AHEAD * workers - len(running)
        if until is not None and time.monotonic() > until:
            room = 0
        for call in islice(calls, room):
            running.add(executor.submit(call))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def pairs_after(usual: Iterable[Passing], results: Iterable[Result]) -> Iterator[Case]:
    """Yield cases of two faults: the second where the first has made the tool do something new.

    ``usual`` passes without faults. A restarted emulator counts anew, so the second fault is in a
    later call then.
    """
    seen = set(usual)
    for result in results:
        new = [passing for passing in result.passings if passing not in seen]
        seen.update(new)
        for first in result.case.faults[:1] if result.verdict in _UNREMARKABLE else ():
            restarts = first.action in RESTARTS
            after = [each for each in new if each.call >= first.passing.call + restarts]
            for second in in_order(after):
                yield Case((first, second), result.case.seed)
