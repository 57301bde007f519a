"""The host of a case: it starts the emulator, notes what it reports, and starts it again.

Where the scenario lets somebody else start the emulator (``emulator.start``), as libvirt does, an
emulator that has ended in a call stays so until the tool starts it, or else until the call is over.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from blkxact.machine.options import ServeOptions

from .bitmap_work import BitmapStory, BitmapWork
from .client import Call, StartError
from .durable import lose_unsynced
from .emulator import Orders
from .faults import Fault
from .history import History, Write
from .leftovers import end_leftovers
from .process import EmulatorBugError, EmulatorProcess, GoneError, Processes
from .results import Case
from .scenario import Scenario
from .setup import emulator_options, image_paths
from .started import StandIn, Starts
from .workplace import Workplace

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection

    from .page import CaseRecord

LAST_MOMENT_S: Final = 1.0
"""How long an emulator may take to end after what stands in for it has."""
_END_OF: Final = {"kill": -signal.SIGKILL, "power": -signal.SIGKILL, "quit": 0}
"""How an emulator ends to which a fault did that."""


class Host:
    """The host of one case."""

    def __init__(
        self,
        scenario: Scenario,
        case: Case,
        place: Workplace,
        history: History,
        *,
        record: CaseRecord | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._scenario = scenario
        self._case = case
        self._place = place
        self._history = history
        self._record = record
        if scenario.emulator.options:  # what they change of a process is for one emulator
            processes = None
        self._keeps_process = processes is not None
        self._processes = processes or Processes()
        self._emulator: EmulatorProcess | None = None
        self._starts: Starts | None = None
        if scenario.emulator.start:
            self._starts = Starts(scenario, place, self._make_for)
        self._was_started = False
        self._expected_end: int | None = None
        """How a fault makes the emulator end."""
        self.next_write = 1
        """The number of the guest's next write."""
        self.call: Call | None = None
        """The call of the tool that runs."""
        self.struck: list[Fault] = []
        self.bugs: list[str] = []
        """What the emulator did wrong."""
        self.lost: list[str] = []
        """What the tool lost with the power in this call."""
        self.bitmaps: Final = BitmapStory()
        """What this call does to bitmaps."""

    @property
    def emulator(self) -> EmulatorProcess:
        """The last emulator; it may have ended."""
        assert self._emulator is not None
        return self._emulator

    def close(self) -> None:
        """End all processes."""
        if self.call is not None:
            self.call.reap()
        if self._emulator is not None:
            self._emulator.kill()
        if self._starts is not None:
            self._starts.close()
            end_leftovers(self._place.directory)

    def release(self) -> None:
        """Let the emulator end in good order, once the case is over."""
        if self._starts is None and self._keeps_process and not self.bugs:
            try:
                self._processes.take_back(self.emulator)
                self._emulator = None
            except GoneError:
                self._note_end()

    # Starts

    def start(self) -> None:
        """Start the emulator; raises ``client.StartError`` if that was never possible."""
        if self._starts is None:
            self._make(partial(emulator_options, self._scenario, self._place.directory))
            return
        problem = self._starts.run_command()
        if problem is None and self._has_ended():
            problem = "it has not started the emulator"
        if problem is not None:
            error = EmulatorBugError if self._was_started else StartError
            raise error(f"emulator.start: {problem}")
        self._was_started = True

    def _make(self, options: Callable[[], ServeOptions], stand_in: StandIn | None = None) -> None:
        """Make the emulator; raises ``GoneError`` if it refuses to start."""
        case = self._case
        directory = self._place.directory
        orders = Orders(
            options,
            str(directory),
            str(self._place.store),
            {disk.name: disk.size for disk in self._scenario.disk},
            tuple(fault for fault in case.faults if fault not in self.struck),
            f"{case.seed}/{len(self.struck)}",
            self.next_write,
            None if self._record is None else self._record.begin(directory),
            stand_in,
            {} if stand_in is None else image_paths(self._scenario, directory),
        )
        self._emulator = self._processes.make(orders, self._on_message)
        self._emulator.wait_ready()

    def _make_for(self, options: ServeOptions, stand_in: StandIn) -> bool:
        """Make the emulator that somebody else has started; return whether it runs."""
        if not self._has_ended(LAST_MOMENT_S):
            stand_in.refuse("the emulator of this case runs already")
            return False
        try:
            self._make(lambda: options, stand_in)
        except GoneError:
            self.emulator.reap()
            self._expected_end = None  # what stands in may have been killed meanwhile
            return False
        return True

    def _has_ended(self, wait_s: float = 0) -> bool:
        """Return whether there is no emulator, or none any more within so many seconds."""
        if self._emulator is None:
            return True
        if self._emulator.drain(wait_s):
            self._note_end()
        return self._emulator.is_reaped

    def _restart(self, call: int | None) -> None:
        """Start the emulator again, which has ended."""
        self._note_end()
        self.start()
        self._go_on(call)

    def _note_end(self) -> None:
        if self.emulator.is_reaped:
            return
        status = self.emulator.reap()
        if status != (self._expected_end or 0):
            raise EmulatorBugError(f"the emulator ended with status {status}")
        self._expected_end = None
        self._history.forget_open()

    def _go_on(self, call: int | None) -> None:
        """See what the disks hold after a restart, and go on with the call."""
        try:
            self._look_at_disks()
            if call is not None:
                self.emulator.ask("begin", call)
        except GoneError:
            if self._starts is None:
                raise
            self._note_end()  # whoever started it has ended it

    def _look_at_disks(self) -> None:
        pages = {disk: sorted(pages) for disk, pages in self._history.pages.items()}
        found = self.emulator.ask("observe", pages)
        for disk, held in found.items():
            lost = self._history.settle(disk, held, time.monotonic())
            if lost:
                self.bugs.append(f"after a restart {disk} lacks flushed writes: pages {lost}")

    # What runs

    def ask(self, name: str, *args: Any) -> Any:
        """Ask the emulator; an emulator that a fault has ended is started again, and says None."""
        try:
            return self.emulator.ask(name, *args)
        except GoneError:
            self._restart(None)
            return None

    def let_write(self, order: str, *args: Any) -> bool:
        """Let the guest write while nothing else happens, by an order that returns its reports.

        Returns False if nothing was done, as the emulator had to be started again.
        """
        reports = self.ask(order, *args)
        for report in reports or ():
            self._on_message(report)
        return reports is not None

    def watched(self) -> list[Connection | socket.socket]:
        """Return what is readable when there is something for ``attend``."""
        found: list[Connection | socket.socket] = []
        if self._starts is not None:
            found.append(self._starts.listener)
        return found if self.emulator.is_reaped else [self.emulator.channel, *found]

    def attend(self, ready: Sequence[object], call: int | None) -> None:
        """Do what is to be done in a call when ``watched`` are ready."""
        try:
            if self.emulator.channel in ready:
                self.emulator.take()
        except GoneError:
            if self._starts is None:
                self._restart(call)
            else:
                self._note_end()
        if self._starts is not None and self._starts.listener in ready and self._starts.take():
            self._go_on(call)

    def end(self, number: signal.Signals) -> None:
        """End the emulator, and start it again."""
        self._expected_end = _END_OF["quit" if number is signal.SIGTERM else "kill"]
        os.kill(self.emulator.pid, number)
        self.await_expected_end()

    def await_expected_end(self) -> None:
        """Wait for an emulator that a fault has ended, and start it again."""
        if self._expected_end is not None:
            self.emulator.wait_end()
            self._restart(None)

    def strike(self, fault: Fault, at_us: int) -> None:
        """Note that a fault strikes."""
        if fault not in self.struck:
            self.struck.append(fault)
            if self._record is not None:
                self._record.struck(fault, at_us)

    def lose_power(self, settled: Sequence[str]) -> None:
        """End all that the case has started but the emulator; lose what the tool has not synced.

        ``settled`` are paths of files of which is known what is left of them.
        """
        if self.call is not None:
            self.call.kill(wait=True)
        if self._starts is not None:
            end_leftovers(self._place.directory)
        self.lost += lose_unsynced(self._place.store, settled)

    def _on_message(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("write-begin", Write() as write, float(at)):
                self.next_write = max(self.next_write, write.number + 1)
                self._history.begin(write, at)
            case ("write-end", int(number), float(at)):
                self._history.end(number, at)
            case ("bitmap", BitmapWork() as work):
                self.bitmaps.note(work)
            case ("bug", str(text)):
                self.bugs.append(text.strip())
            case _:
                self._on_fault(message)

    def _on_fault(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("strike", Fault() as fault, int(at)):
                self.strike(fault, at)
                self._expected_end = _END_OF.get(fault.action, self._expected_end)
            case ("kill-client",):
                if self.call is not None:
                    self.call.kill()
                self.emulator.answer()
            case ("power", list(settled)):
                self.lose_power(settled)
                self.emulator.answer()
            case ("killed",):  # whoever started it has killed what stands in for it
                self._expected_end = _END_OF["kill"]
