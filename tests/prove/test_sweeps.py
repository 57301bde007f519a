"""Sweeps: what is tried next, what is known already, and that a case is the same each time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from blkxact.prove.case import run_case
from blkxact.prove.faults import Passing, parse_fault
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import Scenario, load
from blkxact.prove.store import NOT_IN_A_CASE, Store, behaving_modules, behaviour_of, digest_of
from blkxact.prove.sweep import Sweep, pairs_after

EXAMPLES = Path(__file__).parents[2] / "examples/clients"
TOOL = """\
import os, shutil, sys
dir, store = sys.argv[1:]
if not os.path.exists(f"{store}/b"):
    shutil.copy(f"{dir}/vda.raw", f"{store}/b")
"""
"""It makes one backup, and after that claims that nothing was written."""
SCENARIO = """\
[[disk]]
name = "vda"
size = "1M"
format = "raw"
[client]
tool = "tool.py"
full = "{python} {tool} {dir} {store}"
incremental = "{python} {tool} {dir} {store}"
restore = "cp {store}/b {out}"
cycle = ["full"]
preload = ["shutil"]
"""
REPLAYS = 100


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    (tmp_path / "tool.py").write_text(TOOL)
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO)
    return load(path)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blkxact-") as path:
        yield Path(path)


def test_same_case_gives_the_same_verdict_100_times(scenario: Scenario):
    case = Case.parse("1:1/call.end/1/kill")
    with Sweep(scenario) as sweep:
        sweep.baseline()
        found = list(sweep.run([case] * REPLAYS))
    assert len(found) == REPLAYS
    assert {result.verdict for result in found} == {Verdict.LOSS}
    assert {result.calls for result in found} == {found[0].calls}


# Pairs


def result_of(fault: str, *passings: Passing, verdict: Verdict = Verdict.HONEST) -> Result:
    return Result(Case((parse_fault(fault),)), verdict, passings=passings)


def pairs_of(*results: Result) -> list[str]:
    return [str(case) for case in pairs_after([USUAL], results)]


USUAL = Passing(1, "transaction.settled/True", 1)
NEW = Passing(2, "transaction.settled/True", 1)
CUT, KILL = "1/monitor.reply/query-jobs/1/cut", "1/monitor.reply/query-jobs/1/kill"


def test_second_fault_is_where_the_first_has_led_to_something_new():
    assert pairs_of(result_of(CUT, USUAL, NEW)) == [f"1:{CUT},{NEW}/kill"]


def test_what_an_earlier_case_has_shown_is_no_longer_new():
    other = CUT.replace("query-jobs", "query-block")
    found = pairs_of(result_of(CUT, NEW), result_of(other, NEW))
    assert found == [f"1:{CUT},{NEW}/kill"]


def test_no_second_fault_after_a_finding_or_in_the_call_of_a_restart():
    again = Passing(1, "transaction.settled/True", 2)
    assert pairs_of(result_of(CUT, NEW, verdict=Verdict.LOSS)) == []
    assert pairs_of(result_of(KILL, again)) == []
    assert pairs_of(result_of(KILL, again, NEW)) == [f"1:{KILL},{NEW}/kill"]


@pytest.mark.qemu
def test_both_faults_of_a_pair_strike():
    first = Case.parse("1:2/monitor.reply/transaction/1/cut")
    with Sweep(load(EXAMPLES / "careful.toml"), keep_records=True) as sweep:
        sweep.baseline()
        results = list(sweep.run([first]))
        pair = next(case for case in sweep.pairs(results) if case.faults[1].passing.call == 3)
        [found] = sweep.run([pair])
    struck = [fault for call in found.calls for fault in call.struck]
    assert struck == [str(fault) for fault in pair.faults]
    assert found.verdict in (Verdict.HONEST, Verdict.SOUND), found


# What is known already


def test_verdicts_are_kept_for_the_scenario_and_the_tool_as_they_are(
    scenario: Scenario, tmp_path: Path
):
    result = Result(Case.parse("1:1/call.end/1/kill"), Verdict.LOSS)
    path = tmp_path / "store"
    Store(path, scenario).put(result)
    assert Store(path, scenario).find(result.case) == result
    assert Store(path, scenario).find(replace(result.case, seed=2)) is None
    client = scenario.client.model_copy(update={"timeout": 61})
    assert Store(path, scenario.model_copy(update={"client": client})).find(result.case) is None
    (tmp_path / "tool.py").write_text(TOOL + "\n")
    assert Store(path, scenario).find(result.case) is None


def test_comments_docstrings_and_layout_change_no_verdict():
    source = 'def f(x):\n    "Doc."\n    return x + 1\n'
    same = '"""Module."""\n# comment\ndef f(x):\n    return (x  + 1)\n'
    assert behaviour_of(source) == behaviour_of(same)
    assert behaviour_of(source) != behaviour_of(source.replace("1", "2"))
    assert behaviour_of('x = "a"') != behaviour_of('x = "b"')


def test_code_that_runs_in_no_case_changes_no_verdict(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
):
    before = digest_of(scenario)
    monkeypatch.setattr("blkxact.prove.store.behaviour_of", lambda text: text + "changed")
    assert digest_of(scenario) != before
    names = behaving_modules()
    assert {"prove/case.py", "prove/strikes.py", "daemon.py", "job/job.py"} <= {*names}
    assert not {"prove/causes.py", "cli/prove.py", "report/page.py"} & {*names}


def test_no_module_that_a_case_loads_is_left_out_of_the_key(scratch: Path):
    """A case in an interpreter that has loaded nothing else."""
    code = f"""
import sys
from pathlib import Path
from blkxact.prove.case import run_case
from blkxact.prove.results import Case
from blkxact.prove.scenario import load
scenario, scratch = load(Path({str(scratch / "s.toml")!r})), Path({str(scratch)!r})
for name in ("", "1/call.end/1/crash", "1/call.end/1/power"):
    print(*run_case(scenario, Case.parse("1:" + name), scratch).modules)
print(*sys.modules)
"""
    (scratch / "tool.py").write_text(TOOL)
    (scratch / "s.toml").write_text(SCENARIO)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.replace(".", "/") + ".py" for name in done.stdout.split()}
    ours = {name.removeprefix("blkxact/") for name in loaded if name.startswith("blkxact/")}
    assert "prove/emulator.py" in ours
    assert [name for name in ours if any(fnmatch(name, one) for one in NOT_IN_A_CASE)] == []


def test_case_runs_outside_of_a_sweep(scenario: Scenario, scratch: Path):
    assert run_case(scenario, Case(), scratch).verdict is Verdict.SOUND
    assert list(scratch.iterdir()) == []
