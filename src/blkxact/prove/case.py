"""One case: a scenario with its faults and its seed gives a verdict, and nothing else counts.

The guest writes, the tool is called, the guest writes, and so on, up to the call in which the
faults strike. Then the tool is called twice more without faults, for an incremental and for a full
backup. What each call that exits with 0 claims is restored and compared with the history of the
disks.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blkxact.machine.options import ServeOptions

from .client import Call, StartError, processor_time
from .durable import lose_unsynced
from .emulator import Orders
from .faults import CALL_END, Fault, Passing
from .history import History, Write
from .judgement import Difference, judge, read_restored
from .process import EmulatorBugError, EmulatorProcess, GoneError
from .results import RECOVERY, CallReport, Case, Result, bitmap_work, verdict_of
from .scenario import Scenario
from .setup import emulator_options, image_paths, make_disks
from .started import StandIn, Starts
from .workplace import Workplace

if TYPE_CHECKING:
    from .page import CaseRecord

WRITES_EACH: Final = 3
"""Writes of each disk before each call."""
LOOK_S: Final = 0.25
"""Seconds between two looks at whether anything goes on."""
_END_OF: Final = {"kill": -signal.SIGKILL, "power": -signal.SIGKILL, "quit": 0}
"""How an emulator ends to which a fault did that."""


def run_case(
    scenario: Scenario,
    case: Case,
    scratch: Path,
    normal: Mapping[str, int] | None = None,
    *,
    keep_record: bool = False,
    record: CaseRecord | None = None,
) -> Result:
    """Run a case in a directory of its own below ``scratch``, which is gone afterwards.

    ``normal`` is what is in the emulator at most after calls without faults. The result has the
    passings of all calls if it is to ``keep_record``. ``record`` gets what happens. Raises
    ``client.StartError`` or ``CliError`` if the tool or the emulator cannot be started.
    """
    directory = Path(tempfile.mkdtemp(prefix="c", dir=scratch))
    run = _Run(scenario, case, directory, record)
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
        self, scenario: Scenario, case: Case, directory: Path, record: CaseRecord | None
    ) -> None:
        self._scenario = scenario
        self._case = case
        self._place = Workplace(scenario, directory)
        self._record = record
        self._history = History()
        self._next_write = 1
        self._emulator: EmulatorProcess | None = None
        self._starts = Starts(scenario, self._place, self._make_for) if scenario.emulator.start else None
        """How somebody else starts the emulator, if that is how it is started."""
        self._call: Call | None = None
        self._struck: list[Fault] = []
        self._expected_end: int | None = None
        """How a fault makes the emulator end."""
        self._bugs: list[str] = []
        self._lost: list[str] = []
        """What the tool lost with the power in this call."""
        self._tool_seconds = 0.0
        self._reports: list[CallReport] = []
        self._passings: list[Passing] = []
        self._most: dict[str, int] = {}

    def close(self) -> None:
        """End all processes."""
        if self._call is not None:
            self._call.reap()
        if self._emulator is not None:
            self._emulator.kill()
        if self._starts is not None:
            self._starts.close()

    def run(self, normal: Mapping[str, int] | None, *, keep_record: bool) -> Result:
        """Make all calls; return what they show."""
        self._next_write += make_disks(self._scenario, self._place.directory, self._history)
        modules: list[str] = []
        try:
            self._start()
            self._place.note_files()
            for number, verb in enumerate(self._plan(), 1):
                self._ask("write", f"{self._case.seed}/{number}", WRITES_EACH)
                self._reports.append(self._one_call(number, verb))
                if self._reports[-1].ended == "hung":
                    break
            state = {**(self._ask("state") or {}), "files": self._place.count_files()}
            if not self._case.faults:
                modules = self._ask("modules")
        except EmulatorBugError as error:
            self._bugs.append(str(error))
            state = {}
        left = [
            f"{count - normal[name]} {name.replace('_', ' ')} are left"
            for name, count in state.items()
            if normal is not None and count > normal[name]
        ]
        verdict, notes = verdict_of(self._case, self._reports, self._bugs, left)
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

    # The emulator

    def _start(self) -> None:
        if self._starts is None:
            self._make(partial(emulator_options, self._scenario, self._place.directory))
            return
        try:
            self._starts.run_command()
            if self._has_ended():
                raise StartError("emulator.start: it has not started the emulator")
        except StartError as error:
            if self._reports:  # it could before
                raise EmulatorBugError(str(error)) from error
            raise

    def _make(
        self, options: Callable[[], ServeOptions], stand_in: StandIn | None = None
    ) -> None:
        """Make the emulator; raises ``GoneError`` if it refuses to start."""
        case = self._case
        directory = self._place.directory
        orders = Orders(
            options,
            str(directory),
            str(self._place.store),
            {disk.name: disk.size for disk in self._scenario.disk},
            tuple(fault for fault in case.faults if fault not in self._struck),
            f"{case.seed}/{len(self._struck)}",
            self._next_write,
            None if self._record is None else self._record.begin(directory),
            stand_in,
            {} if stand_in is None else image_paths(self._scenario, directory),
        )
        self._emulator = EmulatorProcess(orders, self._on_message)
        self._emulator.wait_ready()

    def _make_for(self, options: ServeOptions, stand_in: StandIn) -> bool:
        """Make the emulator that somebody else has started; return whether it runs."""
        if not self._has_ended():
            stand_in.refuse("the emulator of this case runs already")
            return False
        try:
            self._make(lambda: options, stand_in)
        except GoneError:
            assert self._emulator is not None
            self._emulator.reap()
            return False
        return True

    def _has_ended(self) -> bool:
        """Return whether there is no emulator, or none any more."""
        if self._emulator is not None and not self._emulator.is_reaped:
            try:
                self._emulator.take_all()
            except GoneError:
                self._note_end()
        return self._emulator is None or self._emulator.is_reaped

    def _ask(self, name: str, *args: Any) -> Any:
        """Ask the emulator; an emulator that a fault has ended is started again, and says None."""
        assert self._emulator is not None
        try:
            return self._emulator.ask(name, *args)
        except GoneError:
            self._restart(None)
            return None

    def _restart(self, call: int | None) -> None:
        """Start the emulator again, which has ended, and see what its disks hold."""
        self._note_end()
        self._start()
        self._look_at_disks(call)

    def _note_end(self) -> None:
        """Note that the emulator has ended."""
        assert self._emulator is not None
        if self._emulator.is_reaped:
            return
        status = self._emulator.reap()
        if status != (self._expected_end or 0):
            raise EmulatorBugError(f"the emulator ended with status {status}")
        self._expected_end = None
        self._history.forget_open()

    def _look_at_disks(self, call: int | None) -> None:
        """See what the disks hold after a restart, and go on with the call."""
        assert self._emulator is not None
        pages = {disk: sorted(pages) for disk, pages in self._history.pages.items()}
        found = self._emulator.ask("observe", pages)
        for disk, held in found.items():
            lost = self._history.settle(disk, held, time.monotonic())
            if lost:
                self._bugs.append(f"after a restart {disk} lacks flushed writes: pages {lost}")
        if call is not None:
            self._emulator.ask("begin", call)

    def _on_message(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("write-begin", Write() as write, float(at)):
                self._next_write = max(self._next_write, write.number + 1)
                self._history.begin(write, at)
            case ("write-end", int(number), float(at)):
                self._history.end(number, at)
            case ("strike", Fault() as fault, int(at)):
                self._strike(fault, at)
                self._expected_end = _END_OF.get(fault.action, self._expected_end)
            case ("kill-client",):
                assert self._emulator is not None
                if self._call is not None:
                    self._call.kill()
                self._emulator.answer()
            case ("power", list(settled)):
                assert self._emulator is not None
                if self._call is not None:
                    self._call.kill(wait=True)
                self._lost += lose_unsynced(self._place.store, settled)
                self._emulator.answer()
            case ("killed",):  # by killing what stands in for it
                self._expected_end = _END_OF["kill"]
            case ("bug", str(text)):
                self._bugs.append(text.strip())

    def _strike(self, fault: Fault, at_us: int) -> None:
        if fault not in self._struck:
            self._struck.append(fault)
            if self._record is not None:
                self._record.struck(fault, at_us)

    # Calls

    def _one_call(self, number: int, verb: str) -> CallReport:
        assert self._emulator is not None
        self._ask("begin", number)
        before = len(self._struck)
        begin = time.monotonic()
        self._call = self._place.call(getattr(self._scenario.client, verb), {})
        hung = self._watch(self._call, number)
        status = self._call.reap()
        end = time.monotonic()
        self._tool_seconds += end - begin
        passings = self._ask("end") or []
        if self._expected_end is not None:  # the tool was quicker than the emulator
            self._await_end()
        printed = self._call.printed()
        self._call = None
        self._end_of_call(number)
        lost, self._lost = self._lost, []
        self._note_state(passings)
        ended = "hung" if hung else "killed" if status == -signal.SIGKILL else "failed"
        report = CallReport(
            number,
            verb,
            "ok" if status == 0 and not hung else ended,
            status,
            printed,
            tuple(map(str, self._struck[before:])),
            tuple(lost),
            bitmaps=bitmap_work(passings),
            jobs=sum(passing.point == "job.start" for passing in passings),
        )
        if report.ended == "ok" and number >= self._first_call:
            report = self._judged(report, (begin, end))
        return report

    def _note_state(self, passings: list[Passing]) -> None:
        """Keep the record, and of a case without faults what is left after a call."""
        self._passings += passings
        self._passings.append(Passing(len(self._reports) + 1, CALL_END, 1))
        if not self._case.faults:
            state = {**self._ask("state"), "files": self._place.count_files()}
            for name, count in state.items():
                self._most[name] = max(count, self._most.get(name, 0))

    def _watch(self, call: Call, number: int | None) -> bool:
        """Wait for the end of a call; return whether it hangs."""
        assert self._emulator is not None
        client = self._scenario.client
        begin = quiet = time.monotonic()
        seen = None
        while True:
            gone = self._emulator.is_reaped
            watched = [call.pidfd, None if gone else self._emulator.channel, self._starts]
            ready = wait([each for each in watched if each is not None], LOOK_S)
            if call.pidfd in ready:
                self._emulator.drain()
                return False
            now = time.monotonic()
            try:
                if self._emulator.channel in ready:
                    self._emulator.take()
            except GoneError:
                if self._starts is None:
                    self._restart(number)
                else:  # it is started again by the tool, or when the call has ended
                    self._note_end()
            if self._starts in ready and self._starts.take():
                self._look_at_disks(number)
            pids = () if ready else (call.pid, self._emulator.pid)
            used = tuple(map(processor_time, pids))
            if used != seen or -1 in used:
                seen, quiet = used, now
            if now - begin > client.timeout or now - quiet > (client.idle or client.timeout):
                return True

    def _end_of_call(self, number: int) -> None:
        """Let happen what is to happen once the call has ended."""
        for fault in self._case.faults:
            passing = fault.passing
            if (passing.call, passing.address) != (number, CALL_END) or fault in self._struck:
                continue
            self._strike(fault, _now_us())
            if fault.action == "power":
                settled = self._ask("lose_power") or []
                self._lost += lose_unsynced(self._place.store, settled)
            if fault.action in ("quit", "crash"):
                self._end_emulator(signal.SIGTERM)
            if fault.action == "crash":
                self._ask("write", f"{self._case.seed}/{number}/crash", WRITES_EACH)
            if fault.action != "quit":
                self._end_emulator(signal.SIGKILL)

    def _end_emulator(self, number: signal.Signals) -> None:
        """End the emulator, and start it again."""
        assert self._emulator is not None
        self._expected_end = _END_OF["quit" if number is signal.SIGTERM else "kill"]
        os.kill(self._emulator.pid, number)
        self._await_end()

    def _await_end(self) -> None:
        assert self._emulator is not None
        self._emulator.wait_end()
        self._restart(None)

    # Judgement

    def _judged(self, report: CallReport, span: tuple[float, float]) -> CallReport:
        restored = {}
        for disk in self._scenario.disk:
            self._place.restored.unlink(missing_ok=True)
            begin = time.monotonic()
            call = self._call = self._place.call(
                self._scenario.client.restore, {"disk": disk.name, "out": str(self._place.restored)}
            )
            hung = self._watch(call, None)
            status = call.reap()
            self._tool_seconds += time.monotonic() - begin
            self._call = None
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
