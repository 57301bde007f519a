"""Faults that are more than a failed request: what they do in a real case, to a real tool."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blkxact.prove.case import run_case
from blkxact.prove.causes import Cause, cause_of
from blkxact.prove.order import faults_of
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import Scenario, load
from blkxact.prove.sweep import Sweep

EXAMPLES = Path(__file__).parents[2] / "examples/clients"
TOOL = Path(__file__).parent / "nbd_tool.py"

pytestmark = pytest.mark.qemu


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blkxact-") as path:  # a short one: it has sockets
        yield Path(path)


@pytest.fixture
def careful(scratch: Path) -> Callable[[str], Result]:
    """Run a case of the careful client."""
    scenario = load(EXAMPLES / "careful.toml")
    return lambda text: run_case(scenario, Case.parse(text), scratch)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("2/storage.open/file-1/1/lock", 'Failed to get "write" lock'),
        ("2/storage.pwrite/file-1/1/power", ""),
        ("2/bitmap.store/backup-vda/1/power", ""),
        ("2/job.before-flush/backup-vda/1/power", ""),
    ],
)
def test_call_fails_and_the_next_are_sound(careful: Callable[[str], Result], fault: str, said: str):
    result = careful(f"1:{fault}")
    assert result.verdict is Verdict.HONEST, result
    [struck] = [call for call in result.calls if call.struck]
    assert struck.struck == (fault,)
    assert said in struck.printed
    assert struck.ended == ("failed" if said else "killed"), "the power fails for the tool as well"


def test_next_call_begins_when_the_emulator_has_ended_and_runs_again(
    careful: Callable[[str], Result],
):
    """The jobs that are cancelled at the end let the tool end before the emulator does."""
    for call in (1, 3):
        result = careful(f"1:{call}/monitor.event/JOB_STATUS_CHANGE/4/quit")
        assert result.verdict is Verdict.HONEST, result


def test_event_that_is_late_harms_no_careful_client(careful: Callable[[str], Result]):
    result = careful("1:2/monitor.event/BLOCK_JOB_COMPLETED/1/late")
    assert result.verdict is Verdict.SOUND, result
    assert any(call.struck for call in result.calls)


# Disks

DISKS = """
[[disk]]
name = "vda"
size = "8M"
bitmaps = ["of another tool"]
backing = "raw"
[[disk]]
name = "vdb"
size = "8M"
backing = "qcow2"
"""


def test_disks_begin_with_bitmaps_and_a_backing_file(scratch: Path):
    text = (EXAMPLES / "careful.toml").read_text()
    path = scratch / "s.toml"
    path.write_text(DISKS + text[text.index("[client]") :])
    scenario = load(path, EXAMPLES / "careful.py")
    with Sweep(scenario) as sweep:
        baseline = sweep.baseline()
    assert baseline.state["bitmaps"] == 3, "two of the tool, one that was there"
    result = run_case(scenario, Case.parse("1:2/call.end/1/crash"), scratch, baseline.state)
    assert result.verdict is Verdict.SOUND, result


# NBD

SCENARIO = """
[emulator]
program = "storage-daemon"
[[disk]]
name = "vda"
size = "8M"
[client]
full = "{python} %(tool)s {qmp} vda {dir} {store}/disk %(patience)s"
incremental = "{python} %(tool)s {qmp} vda {dir} {store}/disk %(patience)s"
restore = "cp {store}/disk {out}"
cycle = ["full"]
idle = 1
"""


def nbd_scenario(scratch: Path, patience: float) -> Scenario:
    path = scratch / "nbd.toml"
    path.write_text(SCENARIO % {"tool": TOOL, "patience": patience})
    return load(path)


def test_faults_of_nbd_requests_are_tried(scratch: Path):
    with Sweep(nbd_scenario(scratch, 60)) as sweep:
        faults = faults_of(sweep.baseline().passings)
    found = {(each.passing.point, each.action) for each in faults}
    assert {("nbd.request", "stall"), ("nbd.request", "cut"), ("nbd.reply", "cut")} <= found


def test_connection_that_stalls_is_waited_for_without_end_or_not(scratch: Path):
    case = Case.parse("1:1/nbd.request/vda/read/1/stall")
    patient = run_case(nbd_scenario(scratch, 60), case, scratch)
    assert patient.verdict is Verdict.HANG, patient
    assert cause_of(patient) is Cause.WAITS_FOREVER
    limited = run_case(nbd_scenario(scratch, 0.3), case, scratch)
    assert limited.calls[0].ended == "failed", limited


def test_files_that_are_left_in_the_emulators_directory_are_litter(scratch: Path):
    scenario = nbd_scenario(scratch, 60)
    with Sweep(scenario) as sweep:
        normal = sweep.baseline().state
    assert normal["files"] == 0
    case = Case.parse("1:1/nbd.request/vda/read/1/cut")
    result = run_case(scenario, case, scratch, normal)
    assert result.calls[0].ended == "failed", result
    assert (result.verdict, result.notes) == (Verdict.LITTER, ("1 files are left",))
