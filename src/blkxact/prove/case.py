"""One case: a scenario with its faults and its seed gives a verdict, and nothing else counts.

The guest writes, the tool is called, the guest writes, and so on, up to the call in which the
faults strike. Then the tool is called twice more without faults, for an incremental and for a full
backup. What each call that exits with 0 claims is restored and compared with the history of the
disks.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .client import Call, processor_time
from .faults import CALL_END, Passing
from .history import History
from .host import Host
from .judgement import Difference, judge, read_restored
from .process import EmulatorBugError, Processes
from .results import RECOVERY, CallReport, Case, Result, verdict_of
from .scenario import Scenario
from .setup import make_disks
from .workplace import Workplace

if TYPE_CHECKING:
    from .page import CaseRecord

WRITES_EACH: Final = 3
"""Writes of each disk before each call."""
_ENDS: Final = frozenset({"monitor.event/BLOCK_JOB_COMPLETED", "monitor.event/BLOCK_JOB_CANCELLED"})
LOOK_S: Final = 0.25
"""Seconds between two looks at whether anything goes on."""


def run_case(
    scenario: Scenario,
    case: Case,
    scratch: Path,
    normal: Mapping[str, int] | None = None,
    *,
    keep_record: bool = False,
    record: CaseRecord | None = None,
    processes: Processes | None = None,
) -> Result:
    """Run a case in a directory of its own below ``scratch``, which is gone afterwards.

    ``normal`` is what is in the emulator at most after calls without faults. The result has the
    passings of all calls if it is to ``keep_record``. ``record`` gets what happens. ``processes``
    may have a process that an earlier case has left. Raises ``client.StartError`` or ``CliError``
    if the tool or the emulator cannot be started.
    """
    directory = Path(tempfile.mkdtemp(prefix="c", dir=scratch))
    run = _Run(scenario, case, directory, record, processes)
    begin = time.monotonic()
    try:
        result = run.run(normal, keep_record=keep_record)
    finally:
        run.close()
        if record is not None:
            record.end()
        shutil.rmtree(directory, ignore_errors=True)
    return replace(result, seconds=time.monotonic() - begin)


class _Run:
    """A case that runs."""

    def __init__(
        self,
        scenario: Scenario,
        case: Case,
        directory: Path,
        record: CaseRecord | None,
        processes: Processes | None,
    ) -> None:
        self._scenario = scenario
        self._case = case
        self._place = Workplace(scenario, directory)
        self._record = record
        self._history = History()
        self._host = Host(
            scenario, case, self._place, self._history, record=record, processes=processes
        )
        self._tool_seconds = 0.0
        self._reports: list[CallReport] = []
        self._passings: list[Passing] = []
        self._most: dict[str, int] = {}

    def close(self) -> None:
        """End all processes."""
        self._host.close()

    def run(self, normal: Mapping[str, int] | None, *, keep_record: bool) -> Result:
        """Make all calls; return what they show."""
        host = self._host
        self._history.period = "before call 1"
        host.next_write += make_disks(self._scenario, self._place.directory, self._history)
        modules: list[str] = []
        try:
            host.start()
            self._place.note_files()
            for number, verb in enumerate(self._plan(), 1):
                self._reports.append(self._one_call(number, verb))
                if self._reports[-1].ended == "hung":
                    break
            state = {**(host.ask("state") or {}), "files": self._place.count_files()}
            if not self._case.faults:
                modules = host.ask("modules")
            if self._reports[-1].ended != "hung":
                host.release()
        except EmulatorBugError as error:
            host.bugs.append(str(error))
            state = {}
        left = [
            f"{count - normal[name]} {name.replace('_', ' ')} are left"
            for name, count in state.items()
            if normal is not None and count > normal[name]
        ]
        verdict, notes = verdict_of(self._case, self._reports, host.bugs, left)
        return Result(
            self._case,
            verdict,
            tuple(self._reports),
            tuple(notes),
            tool_seconds=self._tool_seconds,
            passings=tuple(self._passings) if keep_record else (),
            state=state if self._case.faults else self._most,
            modules=tuple(modules),
        )

    def _plan(self) -> list[str]:
        cycle: list[str] = list(self._scenario.client.cycle)
        if not self._case.faults:
            return cycle
        calls = [fault.passing.call for fault in self._case.faults]
        between = (RECOVERY * len(calls))[: max(calls) - min(calls)]
        return [*cycle[: min(calls)], *between, *RECOVERY]

    @property
    def _first_call(self) -> int:
        """The first call whose claim is tried; those before are as without faults."""
        return min((fault.passing.call for fault in self._case.faults), default=1)

    # Calls

    def _one_call(self, number: int, verb: str) -> CallReport:
        self._history.period = f"before call {number}"
        seed = f"{self._case.seed}/{number}"
        if not self._host.let_write("write_and_begin", seed, WRITES_EACH, number):
            self._host.ask("begin", number)
        self._history.period = f"during call {number}"
        before = len(self._host.struck)
        begin = time.monotonic()
        self._host.call = self._place.call(getattr(self._scenario.client, verb), {})
        hung = self._watch(self._host.call, number)
        status = self._host.call.reap()
        end = time.monotonic()
        self._tool_seconds += end - begin
        passings = self._host.ask("end") or []
        self._host.await_expected_end()  # the tool may be quicker than the emulator
        printed = self._host.call.printed()
        self._host.call = None
        self._end_of_call(number)
        lost, self._host.lost = self._host.lost, []
        self._note_state(passings)
        ended = "hung" if hung else "killed" if status == -signal.SIGKILL else "failed"
        report = CallReport(
            number,
            verb,
            "ok" if status == 0 and not hung else ended,
            status,
            printed,
            tuple(map(str, self._host.struck[before:])),
            tuple(lost),
            bitmaps=self._host.bitmaps.take(),
            jobs=sum(passing.point == "job.start" for passing in passings),
            ended_jobs=sum(passing.address in _ENDS for passing in passings),
        )
        if report.ended == "ok" and number >= self._first_call:
            report = self._judged(report, (begin, end))
        return report

    def _note_state(self, passings: list[Passing]) -> None:
        """Keep the record, and of a case without faults what is left after a call."""
        self._passings += passings
        self._passings.append(Passing(len(self._reports) + 1, CALL_END, 1))
        if not self._case.faults:
            state = {**self._host.ask("state"), "files": self._place.count_files()}
            for name, count in state.items():
                self._most[name] = max(count, self._most.get(name, 0))

    def _watch(self, call: Call, number: int | None) -> bool:
        """Wait for the end of a call; return whether it hangs."""
        client = self._scenario.client
        begin = quiet = time.monotonic()
        seen = None
        while True:
            ready = wait([call.pidfd, *self._host.watched()], LOOK_S)
            if call.pidfd in ready:
                self._host.emulator.drain()
                return False
            now = time.monotonic()
            self._host.attend(ready, number)
            pids = () if ready else (call.pid, self._host.emulator.pid)
            used = tuple(map(processor_time, pids))
            if used != seen or -1 in used:
                seen, quiet = used, now
            if now - begin > client.timeout or now - quiet > (client.idle or client.timeout):
                return True

    def _end_of_call(self, number: int) -> None:
        """Let happen what is to happen once the call has ended."""
        for fault in self._case.faults:
            passing = fault.passing
            if (passing.call, passing.address) != (number, CALL_END) or fault in self._host.struck:
                continue
            self._host.strike(fault, _now_us())
            if fault.action == "power":
                self._host.lose_power(self._host.ask("lose_power") or [])
            if fault.action in ("quit", "crash"):
                self._host.end(signal.SIGTERM)
            if fault.action == "crash":
                self._history.period = f"after call {number}"
                self._host.let_write("write", f"{self._case.seed}/{number}/crash", WRITES_EACH)
            if fault.action != "quit":
                self._host.end(signal.SIGKILL)

    # Judgement

    def _judged(self, report: CallReport, span: tuple[float, float]) -> CallReport:
        restored = {}
        for disk in self._scenario.disk:
            self._place.restored.unlink(missing_ok=True)
            begin = time.monotonic()
            call = self._host.call = self._place.call(
                self._scenario.client.restore, {"disk": disk.name, "out": str(self._place.restored)}
            )
            hung = self._watch(call, None)
            status = call.reap()
            self._tool_seconds += time.monotonic() - begin
            self._host.call = None
            if hung or status != 0:
                how = "does not end" if hung else f"exits with {status}"
                last = call.printed().rpartition("\n")[2]
                text = f"{disk.name}: restore {how}: {last}"
                return replace(report, wrong=(text,), unrestorable=True)
            held = read_restored(self._place.restored, disk.size)
            if isinstance(held, str):
                return replace(report, wrong=(f"{disk.name}: the restored file {held}",))
            restored[disk.name] = held
        consistent = self._scenario.client.consistent
        found = judge(self._history, restored, span, consistent=consistent)
        for difference in found if self._record is not None else ():
            assert self._record is not None
            size = next(disk.size for disk in self._scenario.disk if disk.name == difference.disk)
            self._record.differs(difference, size, _now_us())
        moments = bool(found) and consistent and self._is_of_moments(restored, span)
        return replace(report, wrong=tuple(map(str, found)), moments=moments)

    def _is_of_moments(
        self, restored: dict[str, dict[int, int]], span: tuple[float, float]
    ) -> bool:
        """Return whether each disk by itself is right."""
        found: list[Difference] = judge(self._history, restored, span, consistent=False)
        return not found


def _now_us() -> int:
    """Return the wall-clock time in microseconds, as the emulators' records have it."""
    return time.time_ns() // 1000
