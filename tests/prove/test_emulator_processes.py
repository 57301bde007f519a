"""Processes of emulators: one that a case has left serves the next, and changes nothing by that."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from blkxact.prove.case import run_case
from blkxact.prove.emulator import Orders
from blkxact.prove.history import History
from blkxact.prove.process import EmulatorProcess, GoneError, Processes
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import Scenario, load
from blkxact.prove.setup import emulator_options, make_disks
from blkxact.prove.workplace import Workplace

TOOL = "import os, sys; os.system('cp {0}/vda.raw {0}/store/b'.format(sys.argv[1]))"
SCENARIO = f"""\
[[disk]]
name = "vda"
size = "1M"
format = "raw"
[client]
full = '''{{python}} -c "{TOOL}" {{dir}}'''
incremental = '''{{python}} -c "{TOOL}" {{dir}}'''
restore = "cp {{store}}/b {{out}}"
cycle = ["full"]
"""
KILL = Case.parse("1:1/call.end/1/kill")


class Noted(Processes):
    """Notes which processes it has made."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: list[int] = []

    def make(self, orders: Orders, on_message: Any) -> EmulatorProcess:
        found = super().make(orders, on_message)
        self.pids.append(found.pid)
        return found


@pytest.fixture
def processes() -> Iterator[Noted]:
    noted = Noted()
    yield noted
    noted.close()
    assert not any(is_there(pid) for pid in noted.pids)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blkxact-") as path:  # a short one: it has sockets
        yield Path(path)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO)
    return load(path)


def is_there(pid: int) -> bool:
    return Path("/proc", str(pid), "exe").exists()


def wait_for_end(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def what_counts(result: Result) -> tuple[Any, ...]:
    return result.verdict, result.calls, result.notes, result.passings, result.state


def test_process_serves_the_next_case_unless_it_was_killed(
    scenario: Scenario, scratch: Path, processes: Noted
):
    for case in (Case(), Case(), KILL, Case()):
        result = run_case(scenario, case, scratch, processes=processes)
        assert result.verdict is Verdict.SOUND
    first, second, third, restarted, last = processes.pids
    assert first == second == third != restarted == last


@pytest.mark.parametrize("case", [Case(), KILL, Case.parse("1:1/call.end/1/quit")])
def test_process_that_has_served_shows_what_a_new_one_does(
    scenario: Scenario, scratch: Path, processes: Noted, case: Case
):
    fresh = run_case(scenario, case, scratch, keep_record=True)
    run_case(scenario, Case.parse("2:1/call.end/1/power"), scratch, processes=processes)
    again = run_case(scenario, case, scratch, keep_record=True, processes=processes)
    assert processes.pids[1] == processes.pids[2]
    assert what_counts(again) == what_counts(fresh)


def test_process_that_keeps_something_of_a_case_serves_no_other(
    scenario: Scenario, scratch: Path, processes: Noted, monkeypatch: pytest.MonkeyPatch
):
    counted = count()
    monkeypatch.setattr("blkxact.prove.emulator.resources_held", lambda: (next(counted), 1))
    for _ in range(2):
        run_case(scenario, Case(), scratch, processes=processes)
        assert not is_there(processes.pids[-1])
    assert len({*processes.pids}) == 2


def test_process_that_was_killed_between_two_cases_is_replaced(
    scenario: Scenario, scratch: Path, processes: Noted
):
    run_case(scenario, Case(), scratch, processes=processes)
    os.kill(processes.pids[0], signal.SIGKILL)
    wait_for_end(processes.pids[0])
    assert run_case(scenario, Case(), scratch, processes=processes).verdict is Verdict.SOUND
    assert len({*processes.pids}) == 2


def test_scenario_with_options_of_its_own_has_a_process_for_each_case(
    scenario: Scenario, scratch: Path, processes: Noted
):
    emulator = scenario.emulator.model_copy(update={"options": ["-name x"]})
    changed = scenario.model_copy(update={"emulator": emulator})
    for _ in range(2):
        result = run_case(changed, Case(), scratch, processes=processes)
        assert result.verdict is Verdict.SOUND
    assert processes.pids == []


def test_order_that_comes_while_it_ends_is_answered_by_its_end(scenario: Scenario, scratch: Path):
    """The signal and the order come at once; the disks are closed when the order is obeyed."""
    place = Workplace(scenario, scratch)
    make_disks(scenario, scratch, History())
    options = partial(emulator_options, scenario, scratch)
    reported: list[tuple[Any, ...]] = []
    orders = Orders(options, str(scratch), str(place.store), {"vda": 1 << 20}, (), "1", 1, None)
    process = EmulatorProcess(orders, reported.append)
    process.wait_ready()
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGTERM)
    for _ in range(3):
        process.channel.send(("observe", {"vda": list(range(256))}))
    os.kill(process.pid, signal.SIGCONT)
    wait_for_end(process.pid)
    process.drain()
    assert process.reap() == 0
    assert [message for message in reported if message[0] != "reply"] == []


def test_what_an_emulator_reported_before_it_ended_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    """It is asked when it has ended, and has reported why just before."""

    def serve(channel: Connection, orders: Orders, parent: int) -> None:
        del orders, parent
        channel.send(("killed",))

    monkeypatch.setattr("blkxact.prove.process.serve", serve)
    reported: list[tuple[Any, ...]] = []
    orders = Orders(lambda: pytest.fail("not called"), "", "", {}, (), "", 1, None)
    process = EmulatorProcess(orders, reported.append)
    wait_for_end(process.pid)
    with pytest.raises(GoneError):
        process.ask("state")
    assert reported == [("killed",)]
    process.reap()
