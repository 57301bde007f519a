"""The completion object: references, callbacks, verdict."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from blkxact.enums import ActionCompletionMode, TransactionStatus
from blkxact.job.txn import BitmapFate, JobTxn


@dataclass(eq=False)
class ToyJob:
    id: str | None
    ret: int = 0
    error: str | None = None
    type_name: str = "toy"


def test_job_txn_last_reference_runs_callbacks_once_in_order() -> None:
    log: list[str] = []
    txn = JobTxn(on_over=lambda txn: log.append(f"over {txn.over}"))
    txn.on_complete(lambda ret: log.append(f"first {ret}"))
    txn.on_complete(lambda ret: log.append(f"second {ret}"))
    txn.keep_until_over(lambda: log.append("released"))
    txn.ref("launch")
    job = ToyJob("a")
    txn.add_job(job)
    txn.unref("launch")
    assert log == []
    txn.job_concluded(job)
    assert log == ["first 0", "second 0", "released", "over True"]


def test_job_txn_counts_its_references() -> None:
    txn = JobTxn()
    txn.ref("launch")
    jobs = [ToyJob(name) for name in "abc"]
    for job in jobs:
        txn.add_job(job)
    assert txn.references == 4
    assert txn.holders == ["launch", "job a", "job b", "job c"]
    txn.unref("launch")
    for left, job in zip((2, 1, 0), jobs, strict=True):
        txn.job_concluded(job)
        assert txn.references == left


def test_job_txn_reference_taken_twice_is_refused() -> None:
    txn = JobTxn()
    txn.ref("launch")
    with pytest.raises(AssertionError):
        txn.ref("launch")


def test_job_txn_over_cannot_be_taken_up_again() -> None:
    txn = JobTxn()
    txn.ref("launch")
    txn.unref("launch")
    with pytest.raises(AssertionError):
        txn.ref("late")
    with pytest.raises(AssertionError):
        txn.on_complete(lambda ret: None)


@pytest.mark.parametrize(
    ("rets", "status", "verdict"),
    [
        ((), TransactionStatus.COMPLETED, 0),
        ((0, 0), TransactionStatus.COMPLETED, 0),
        ((0, -errno.EIO), TransactionStatus.FAILED, -errno.EIO),
        ((-errno.ECANCELED, 0), TransactionStatus.CANCELLED, -errno.ECANCELED),
        ((-errno.ECANCELED, -errno.ENOSPC), TransactionStatus.FAILED, -errno.ENOSPC),
        ((-errno.ENOSPC, -errno.EIO), TransactionStatus.FAILED, -errno.ENOSPC),
    ],
)
def test_job_txn_verdict_is_the_first_failure(
    rets: tuple[int, ...], status: TransactionStatus, verdict: int
) -> None:
    seen: list[int] = []
    txn = JobTxn()
    txn.on_complete(seen.append)
    txn.ref("launch")
    jobs = [ToyJob(str(i), ret) for i, ret in enumerate(rets)]
    for job in jobs:
        txn.add_job(job)
    txn.unref("launch")
    for job in jobs:
        assert txn.status is TransactionStatus.RUNNING
        txn.job_concluded(job)
    assert seen == [verdict]
    assert txn.status is status


def test_job_txn_job_that_never_started_does_not_count() -> None:
    txn = JobTxn()
    txn.ref("launch")
    job = ToyJob("a", -errno.ECANCELED)
    txn.add_job(job)
    txn.remove_job(job)
    txn.unref("launch")
    assert txn.status is TransactionStatus.COMPLETED
    assert txn.jobs == []


def test_job_txn_report_tells_jobs_and_bitmaps() -> None:
    txn = JobTxn(ActionCompletionMode.DEFERRED, "nightly")
    txn.ref("launch")
    good, bad = ToyJob("good"), ToyJob("bad", -errno.EIO, "Input/output error")
    txn.add_job(good)
    txn.add_job(bad)
    txn.on_complete(lambda ret: txn.record_fate(BitmapFate("disk0", "b0", "reclaimed")))
    txn.unref("launch")
    txn.job_concluded(good)
    txn.job_concluded(bad)
    assert txn.report() == {
        "id": "nightly",
        "completion-mode": "deferred",
        "status": "failed",
        "jobs": [
            {"id": "good", "type": "toy"},
            {"id": "bad", "type": "toy", "error": "Input/output error"},
        ],
        "bitmaps": [{"node": "disk0", "name": "b0", "outcome": "reclaimed"}],
    }
