"""Each example with a mistake is found and its mistake named; the careful one has none.

A few cases of the sweep: docs/prove.md has the count of a whole one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pytest

from blkxact.prove.case import run_case
from blkxact.prove.causes import Cause
from blkxact.prove.findings import findings_of
from blkxact.prove.order import in_order
from blkxact.prove.pool import worker_pool
from blkxact.prove.rehearsal import prepare
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import load
from blkxact.prove.sweep import Sweep

EXAMPLES = Path(__file__).parents[2] / "examples/clients"
SCENARIO = EXAMPLES / "careful.toml"

FULL_FILE_SYSTEM = "1:2/storage.pwrite/file-1/1/ENOSPC+"
MISTAKES = {
    "adds_bitmap_late": (
        "1:2/monitor.event/BLOCK_JOB_COMPLETED/1/write",
        Cause.BITMAP_AFTER_BACKUP,
    ),
    "clears_afterwards": (
        "1:2/monitor.event/BLOCK_JOB_COMPLETED/1/write",
        Cause.CLEAR_AFTER_BACKUP,
    ),
    "clears_in_transaction": (FULL_FILE_SYSTEM, Cause.CLEARED_WITH_FAILED),
    "forgets_bitmaps": ("1:2/call.end/1/quit", Cause.NOT_PERSISTENT),
    "ignores_error": (FULL_FILE_SYSTEM, Cause.FAILED_JOB_CLAIMED),
    "listens_late": ("1:2/monitor.reply/transaction/1/late", Cause.EVENT_BEFORE_REPLY),
    "removes_early": ("1:2/job.before-flush/backup-vda/1/ENOSPC", Cause.REMOVED_EARLY),
    "replaces_inconsistent": ("1:2/call.end/1/crash", Cause.INCONSISTENT_USED),
    "resumes_from_remains": (FULL_FILE_SYSTEM, Cause.PARTIAL_FILE),
    "separate_transactions": ("1:2/monitor.reply/transaction/1/write", Cause.SEVERAL_MOMENTS),
    "trusts_the_bitmap": ("1:2/monitor.reply/transaction/1/cut", Cause.LOST_REPLY),
    "waits_forever": ("1:2/job.step/backup-vda/1/kill", Cause.WAITS_FOREVER),
}
"""Example to a case that shows its mistake, and the mistake."""
OTHER_CASES = (
    ("clears_in_transaction", "1:2/job.step/backup-vda/1/quit", Cause.CLEARED_WITH_FAILED),
    ("removes_early", "1:2/job.step/backup-vda/1/quit", Cause.REMOVED_EARLY),
    ("removes_early", "1:2/monitor.event/BLOCK_JOB_COMPLETED/1/cut", Cause.REMOVED_EARLY),
    ("removes_early", "1:2/monitor.event/BLOCK_JOB_COMPLETED/1/quit", Cause.REMOVED_EARLY),
    ("trusts_the_bitmap", "1:2/monitor.event/BLOCK_JOB_COMPLETED/1/quit", Cause.LOST_REPLY),
)
"""Cases that show a mistake in another way: it is named the same."""
NOT_DURABLE = ("forgets_to_sync", "1:1/call.end/1/power")
"""Shown only where the file system says what is durable."""
BUDGET = 100
"""A sweep of so many cases tries the case that shows the mistake."""
HANGS = {"listens_late", "waits_forever"}

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def baseline() -> Iterator[Result]:
    with Sweep(load(SCENARIO)) as sweep:
        yield sweep.baseline()


@pytest.fixture(scope="module")
def pool(baseline: Result, scratch: Path) -> Iterator[Executor]:
    with worker_pool(2, scratch, partial(prepare, load(SCENARIO), baseline.modules)) as executor:
        yield executor


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blkxact-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def mistaken(pool: Executor, scratch: Path, baseline: Result) -> Mapping[str, Result]:
    """Run the case of each mistake."""
    running = {
        tool: pool.submit(
            run_case,
            load(SCENARIO, EXAMPLES / f"{tool}.py"),
            Case.parse(case),
            scratch,
            baseline.state,
        )
        for tool, (case, _) in [*MISTAKES.items(), (NOT_DURABLE[0], (NOT_DURABLE[1], None))]
    }
    return {tool: future.result() for tool, future in running.items()}


@pytest.mark.parametrize("tool", MISTAKES)
def test_mistake_is_found_and_named(tool: str, mistaken: Mapping[str, Result]):
    result = mistaken[tool]
    assert result.verdict is (Verdict.HANG if tool in HANGS else Verdict.LOSS), result
    [finding] = findings_of([result])
    assert finding.cause is MISTAKES[tool][1]
    assert finding.paragraph().endswith(finding.cause.text)


def test_mistake_is_named_the_same_whichever_fault_shows_it(
    pool: Executor, scratch: Path, baseline: Result
):
    running = [
        pool.submit(
            run_case, load(SCENARIO, EXAMPLES / f"{tool}.py"), Case.parse(case), scratch,
            baseline.state,
        )
        for tool, case, _ in OTHER_CASES
    ]  # fmt: skip
    found = [findings_of([each.result()]) for each in running]
    assert [[finding.cause for finding in each] for each in found] == [
        [cause] for _, _, cause in OTHER_CASES
    ]


def test_manifest_that_is_not_synced_is_lost_with_the_power(mistaken: Mapping[str, Result]):
    result = mistaken[NOT_DURABLE[0]]
    if not any(call.lost for call in result.calls):
        pytest.skip("the file system does not say what is durable")
    assert findings_of([result])[0].cause is Cause.NOT_DURABLE
    assert result.calls[0].lost == ("manifest.json",)


def test_careful_client_has_no_mistake_in_the_cases_of_the_others(
    pool: Executor, scratch: Path, baseline: Result
):
    cases = {case for case, _ in MISTAKES.values()} | {NOT_DURABLE[1]}
    scenario = load(SCENARIO)
    running = [
        pool.submit(run_case, scenario, Case.parse(case), scratch, baseline.state)
        for case in sorted(cases)
    ]
    verdicts = {str(each.result().case): each.result().verdict for each in running}
    assert set(verdicts.values()) <= {Verdict.SOUND, Verdict.HONEST, Verdict.MISSED}, verdicts
    assert list(scratch.iterdir()) == [], "each case removes its directory"


def test_sweep_of_few_cases_tries_the_one_that_shows_the_mistake(pool: Executor, scratch: Path):
    shown = {tool: case for tool, (case, _) in MISTAKES.items()} | dict([NOT_DURABLE])
    records = {
        tool: pool.submit(
            partial(run_case, keep_record=True),
            load(SCENARIO, EXAMPLES / f"{tool}.py"),
            Case(),
            scratch,
        )
        for tool in shown
    }
    for tool, case in shown.items():
        first = in_order(records[tool].result().passings)[:BUDGET]
        assert case in [f"1:{fault}" for fault in first], tool


def test_every_mistake_among_the_examples_is_tried():
    with_scenarios = {path.stem for path in EXAMPLES.glob("*.toml")}
    tools = {path.stem for path in EXAMPLES.glob("*.py")} - with_scenarios
    assert tools == {*MISTAKES, NOT_DURABLE[0]}


def test_same_case_gives_the_same_verdict_again(
    pool: Executor, scratch: Path, mistaken: Mapping[str, Result]
):
    tool = "trusts_the_bitmap"
    scenario = load(SCENARIO, EXAMPLES / f"{tool}.py")
    again = [pool.submit(run_case, scenario, mistaken[tool].case, scratch) for _ in range(3)]
    for each in again:
        assert each.result().calls == mistaken[tool].calls
