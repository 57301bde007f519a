"""The cause of a finding follows from what happened, without running anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blkxact.prove.bitmap_work import REMOVE_INCONSISTENT, removal_of
from blkxact.prove.causes import Cause
from blkxact.prove.findings import findings_of
from blkxact.prove.results import CallReport, Case, Result, Verdict, verdict_of


def call(number: int, ended: str = "ok", **more: object) -> CallReport:
    return CallReport(number, "full", ended, 0, "", jobs=2, **more)


def result(fault: str, *calls: CallReport, verdict: Verdict = Verdict.LOSS) -> Result:
    return Result(Case.parse(f"1:{fault}"), verdict, calls)


def cause(fault: str, *calls: CallReport, verdict: Verdict = Verdict.LOSS) -> Cause:
    [finding] = findings_of([result(fault, *calls, verdict=verdict)])
    return finding.cause


ERROR = "1/job.before-flush/a/1/EIO"
QUIT = "1/job.step/a/1/quit"
CUT = "1/monitor.reply/transaction/1/cut"


@pytest.mark.parametrize(
    ("fault", "more", "expected"),
    [
        (ERROR, {}, Cause.GIVEN_UP),
        (ERROR, {"bitmaps": ("clear in a transaction",)}, Cause.CLEARED_WITH_FAILED),
        (ERROR, {"bitmaps": ("abdicated",)}, Cause.LOST_REPLY),
        (CUT, {"bitmaps": ("abdicated",)}, Cause.LOST_REPLY),
        (QUIT, {"bitmaps": ("abdicated",)}, Cause.LOST_REPLY),
        (QUIT, {"bitmaps": ("clear in a transaction",)}, Cause.CLEARED_WITH_FAILED),
        (QUIT, {}, Cause.LOST),
        (CUT, {}, Cause.GIVEN_UP),
    ],
)
def test_next_call_lacks_something(fault: str, more: dict, expected: Cause):
    failed = call(1, "failed", struck=(fault,), **more)
    assert cause(fault, failed, call(2, wrong=("vda",))) is expected


REMOVE = removal_of(1)


@pytest.mark.parametrize("fault", ["2/monitor.reply/transaction/1/cut", "2/job.step/a/1/quit"])
@pytest.mark.parametrize(
    ("struck", "wrong", "expected"),
    [
        ((REMOVE,), ("add in a transaction",), True),
        ((), (REMOVE, "add in a transaction"), True),
        ((), ("add in a transaction", REMOVE), False),  # when the backup is complete
        ((removal_of(2),), (removal_of(2), "add in a transaction"), False),  # of the failed call
    ],
)
def test_bitmap_of_the_last_good_backup_must_stay_until_the_next(
    fault: str, struck: tuple[str, ...], wrong: tuple[str, ...], expected: bool
):
    failed = call(2, "failed", struck=(fault,), bitmaps=("add in a transaction", *struck))
    found = cause(fault, call(1), failed, call(3, wrong=("vda",), bitmaps=wrong))
    assert (found is Cause.REMOVED_EARLY) == expected


def test_claim_of_the_call_itself_is_wrong():
    assert cause(ERROR, call(1, struck=(ERROR,), wrong=("vda",))) is Cause.FAILED_JOB_CLAIMED
    power = "1/call.end/1/power"
    assert cause(power, call(1, struck=(power,), wrong=("vda",))) is Cause.NOT_DURABLE


@pytest.mark.parametrize(
    ("struck", "ended_jobs", "expected"),
    [
        (("2/monitor.reply/transaction/1/late",), 2, Cause.EVENT_BEFORE_REPLY),
        (("2/monitor.event/JOB_STATUS_CHANGE/4/late",), 2, Cause.EVENT_BEFORE_REPLY),
        ((), 2, Cause.EVENT_BEFORE_REPLY),  # the job was faster than the tool, by chance
        ((), 1, Cause.HANGS),
        (("2/monitor.event/BLOCK_JOB_COMPLETED/1/cut",), 2, Cause.WAITS_FOREVER),
        (("2/job.step/a/1/kill",), 0, Cause.WAITS_FOREVER),
    ],
)
def test_call_that_hangs_waits_for_what_was_sent_or_for_what_cannot_come(
    struck: tuple[str, ...], ended_jobs: int, expected: Cause
):
    hung = call(2, "hung", struck=struck, ended_jobs=ended_jobs)
    later = "3/call.end/1/kill"
    fault = struck[0] if struck else later
    assert cause(fault, call(1), hung, verdict=Verdict.HANG) is expected


def test_call_that_hangs_by_itself_is_no_work_of_the_fault():
    hung = call(2, "hung", ended_jobs=2)
    [finding] = findings_of([result("3/call.end/1/kill", call(1), hung, verdict=Verdict.HANG)])
    assert finding.paragraph().startswith("No fault struck. Call 1 (full) exited with 0. Call 2")


def test_tool_that_never_succeeds_after_it_lost_a_file_had_not_synced_it():
    power = "2/job.conclude/a/1/power"
    struck = call(2, "killed", struck=(power,), lost=("manifest.json",))
    later = (call(3, "failed"), call(4, "failed"))
    assert cause(power, call(1), struck, *later, verdict=Verdict.STUCK) is Cause.NOT_DURABLE
    unharmed = replace(struck, lost=())
    assert cause(power, call(1), unharmed, *later, verdict=Verdict.STUCK) is Cause.STUCK
    wrong = call(3, wrong=("vda: restore exits with 1",), unrestorable=True)
    assert cause(power, call(1), struck, wrong) is Cause.NOT_DURABLE


def test_restore_that_fails_later_says_nothing_about_bitmaps():
    failed = call(1, "failed", struck=(ERROR,), bitmaps=("clear in a transaction",))
    wrong = call(2, wrong=("vda: restore exits with 1",), unrestorable=True)
    assert cause(ERROR, failed, wrong) is Cause.RESTORE_FAILS


@pytest.mark.parametrize(("bitmaps", "expected"), [(REMOVE_INCONSISTENT, Cause.INCONSISTENT_USED),
                                                   ("add", Cause.NOT_PERSISTENT),
                                                   ("merge", Cause.LOST)])  # fmt: skip
def test_after_a_restart_what_was_done_first_to_bitmaps_tells(bitmaps: str, expected: Cause):
    kill = "1/call.end/1/crash"
    wrong = call(2, wrong=("vda",), bitmaps=(bitmaps, "add"))
    assert cause(kill, call(1, struck=(kill,)), wrong) is expected


def test_cases_of_one_cause_are_one_finding_with_the_simplest_first():
    later = "2/job.before-flush/a/1/ENOSPC"
    results = [
        result(later, call(2, struck=(later,), wrong=("vda",))),
        result(ERROR, call(1, struck=(ERROR,), wrong=("vda",))),
    ]
    [finding] = findings_of(results)
    assert str(finding.simplest.case) == f"1:{ERROR}"
    assert len(finding.results) == 2
    where = "In call 1, when the job a has copied everything and flushes it, that fails with EIO."
    assert where in finding.paragraph()


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([call(1, struck=(ERROR,)), call(2), call(3)], Verdict.SOUND),
        ([call(1, "failed", struck=(ERROR,)), call(2), call(3)], Verdict.HONEST),
        ([call(1, "failed", struck=(ERROR,)), call(2, "failed"), call(3)], Verdict.HONEST),
        ([call(1, struck=(ERROR,)), call(2, "failed"), call(3, "failed")], Verdict.STUCK),
        ([call(1, struck=(ERROR,)), call(2, wrong=("vda",)), call(3)], Verdict.LOSS),
        ([call(1, "hung", struck=(ERROR,))], Verdict.HANG),
        ([call(1), call(2), call(3)], Verdict.MISSED),
    ],
)
def test_verdict_is_the_worst_that_applies(calls: list[CallReport], expected: Verdict):
    case = Case.parse(f"1:{ERROR}")
    assert verdict_of(case, calls, [], [])[0] is expected
    assert verdict_of(case, calls, ["a bug"], []) == (Verdict.CRASH, ["a bug"])


def test_what_is_left_is_litter():
    calls = [call(1, struck=(ERROR,)), call(2), call(3)]
    left = ["1 nodes are left"]
    assert verdict_of(Case.parse(f"1:{ERROR}"), calls, [], left) == (Verdict.LITTER, left)
