"""Toy jobs in every completion mode: every outcome, every order of ending, pause, cancel."""

from __future__ import annotations

import asyncio
import errno
import itertools

import pytest

from blkxact.enums import ActionCompletionMode, JobStatus, JobVerb, TransactionStatus
from blkxact.errors import QmpError
from blkxact.job.states import TRANSITIONS, VERBS
from blkxact.job.txn import JobTxn
from blkxact.testing.waiting import until

from .toys import ToyHost, ToyJob, settle

OUTCOMES = ("good", "bad", "cancel")
MODES = list(ActionCompletionMode)


def launch(
    mode: ActionCompletionMode, names: str, **kwargs: bool
) -> tuple[ToyHost, JobTxn, list[ToyJob], list[int]]:
    host = ToyHost()
    verdicts: list[int] = []
    txn = JobTxn(mode, "t")
    txn.on_complete(verdicts.append)
    txn.ref("launch")
    jobs = [ToyJob(host, name, txn, **kwargs) for name in names]
    for job in jobs:
        job.start()
    txn.unref("launch")
    return host, txn, jobs, verdicts


async def bring(job: ToyJob, outcome: str) -> None:
    """Make one job end so, unless it has ended already."""
    if job.status in (JobStatus.CONCLUDED, JobStatus.NULL):
        return
    if outcome == "cancel":
        if job.status is not JobStatus.ABORTING:
            await job.user_cancel()
    else:
        job.end(errno.EIO if outcome == "bad" else 0)
    await job.wait()


def cases() -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    return [
        (outcomes, order)
        for count in (1, 2, 3)
        for outcomes in itertools.product(OUTCOMES, repeat=count)
        for order in itertools.permutations(range(count))
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("outcomes", "order"), cases())
async def test_jobs_every_outcome_in_every_order_keeps_the_invariants(
    mode: ActionCompletionMode, outcomes: tuple[str, ...], order: tuple[int, ...]
) -> None:
    host, txn, jobs, verdicts = launch(mode, "abc"[: len(outcomes)])
    for index in order:
        await bring(jobs[index], outcomes[index])
    await settle(*jobs)

    # The completion object: over once, with a verdict that fits the jobs.
    assert txn.over
    assert len(verdicts) == 1
    assert verdicts[0] == txn.ret
    assert (verdicts[0] == 0) == all(job.ret == 0 for job in jobs)
    # Every job settled exactly once, and cleaned after.
    for job in jobs:
        settled = [line for line in host.log if line.endswith(f" {job.id}")]
        assert settled == [f"{'abort' if job.ret else 'commit'} {job.id}", f"clean {job.id}"]
        assert job.status is JobStatus.NULL
    assert not host.jobs
    # Who failed by itself and who was pulled along.
    if mode is ActionCompletionMode.GROUPED:
        assert len({bool(job.ret) for job in jobs}) == 1, "all or none"
    else:
        expected = {"good": 0, "bad": -errno.EIO, "cancel": -errno.ECANCELED}
        assert [job.ret for job in jobs] == [expected[outcome] for outcome in outcomes]


@pytest.mark.parametrize("count", [2, 3])
async def test_jobs_grouped_none_concludes_before_all_can(count: int) -> None:
    host, txn, jobs, _ = launch(ActionCompletionMode.GROUPED, "abc"[:count])
    for job in jobs[:-1]:
        await bring(job, "good")
        assert job.status is JobStatus.WAITING
    assert host.log == []
    await bring(jobs[-1], "good")
    assert [job.status for job in jobs] == [JobStatus.NULL] * count
    assert txn.status is TransactionStatus.COMPLETED


async def test_jobs_deferred_conclude_in_their_own_time() -> None:
    _, txn, (first, second), verdicts = launch(ActionCompletionMode.DEFERRED, "ab")
    await bring(first, "good")
    assert first.status is JobStatus.NULL
    assert verdicts == []
    assert txn.holders == ["job b"]
    await bring(second, "bad")
    assert verdicts == [-errno.EIO]


@pytest.mark.parametrize("mode", MODES)
async def test_jobs_that_never_started_are_discarded(mode: ActionCompletionMode) -> None:
    host = ToyHost()
    txn = JobTxn(mode)
    txn.ref("launch")
    jobs = [ToyJob(host, name, txn) for name in "ab"]
    for job in reversed(jobs):
        job.discard()
    txn.unref("launch")
    assert host.log == ["abort b", "clean b", "abort a", "clean a"]
    assert host.statuses("a") == ["created", "aborting", "concluded", "null"]
    assert txn.over
    assert not host.jobs


async def test_job_statuses_of_a_good_job() -> None:
    host, _, (job,), _ = launch(ActionCompletionMode.INDIVIDUAL, "a")
    await bring(job, "good")
    assert host.statuses("a") == [
        "created", "running", "waiting", "pending", "concluded", "null",
    ]  # fmt: skip


async def test_job_paused_shows_it_and_goes_on_where_it_was() -> None:
    host, _, (job,), _ = launch(ActionCompletionMode.INDIVIDUAL, "a")
    await asyncio.sleep(0)
    job.user_pause()
    await until(lambda: job.status is JobStatus.PAUSED)
    with pytest.raises(QmpError, match="Job is already paused"):
        job.user_pause()
    job.end()
    await asyncio.sleep(0)
    assert job.status is JobStatus.PAUSED
    job.user_resume()
    await job.wait()
    assert host.statuses("a")[1:4] == ["running", "paused", "running"]
    assert job.ret == 0


async def test_job_resume_without_pause_is_refused() -> None:
    _, _, (job,), _ = launch(ActionCompletionMode.INDIVIDUAL, "a")
    with pytest.raises(QmpError, match="Can't resume a job that was not paused"):
        job.user_resume()
    await bring(job, "good")


async def test_job_cancelled_while_paused_ends() -> None:
    _, _, (job,), _ = launch(ActionCompletionMode.INDIVIDUAL, "a")
    await asyncio.sleep(0)
    job.user_pause()
    await until(lambda: job.status is JobStatus.PAUSED)
    await job.user_cancel()
    await job.wait()
    assert job.ret == -errno.ECANCELED


async def test_job_ready_pauses_to_standby_and_back() -> None:
    host, _, (job,), _ = launch(ActionCompletionMode.INDIVIDUAL, "a")
    await asyncio.sleep(0)
    job.become_ready()
    job.user_pause()
    await until(lambda: job.status is JobStatus.STANDBY)
    job.user_resume()
    await until(lambda: job.status is JobStatus.READY)
    await bring(job, "good")
    assert host.statuses("a")[2:7] == ["ready", "standby", "ready", "waiting", "pending"]


async def test_job_manual_finalize_waits_for_the_client() -> None:
    host, txn, (job,), verdicts = launch(ActionCompletionMode.INDIVIDUAL, "a", auto_finalize=False)
    await bring(job, "good")
    assert job.status is JobStatus.PENDING
    assert verdicts == []
    await job.user_finalize()
    assert job.status is JobStatus.NULL
    assert txn.over
    assert host.log == ["commit a", "clean a"]


async def test_job_manual_dismiss_stays_listed_but_lets_the_transaction_go() -> None:
    host, txn, (job,), verdicts = launch(ActionCompletionMode.INDIVIDUAL, "a", auto_dismiss=False)
    await bring(job, "good")
    assert job.status is JobStatus.CONCLUDED
    assert verdicts == [0]
    assert txn.over
    job.user_dismiss()
    assert not host.jobs


@pytest.mark.parametrize("mode", MODES)
async def test_jobs_cancelled_while_pending_are_aborted(mode: ActionCompletionMode) -> None:
    host, txn, jobs, verdicts = launch(mode, "ab", auto_finalize=False)
    for job in jobs:
        await bring(job, "good")
    assert all(job.status is JobStatus.PENDING for job in jobs)
    await jobs[0].user_cancel()
    if mode is ActionCompletionMode.GROUPED:
        assert all(job.status is JobStatus.NULL for job in jobs)
        assert sorted(host.log) == ["abort a", "abort b", "clean a", "clean b"]
    else:
        assert jobs[1].status is JobStatus.PENDING
        await jobs[1].user_finalize()
        assert host.log == ["abort a", "clean a", "commit b", "clean b"]
    assert verdicts == [-errno.ECANCELED]
    assert txn.status is TransactionStatus.CANCELLED


async def test_job_with_a_bug_ends_as_a_failure() -> None:
    host = ToyHost()
    txn = JobTxn()

    class Buggy(ToyJob):
        async def run(self) -> None:
            raise ZeroDivisionError("oops")

    job = Buggy(host, "a", txn)
    job.start()
    await job.wait()
    assert job.ret == -errno.EIO
    assert "oops" in (job.error or "")
    assert host.log == ["abort a", "clean a"]


OF_BLOCK_JOBS = {JobVerb.SET_SPEED, JobVerb.CHANGE}


async def use(job: ToyJob, verb: JobVerb) -> None:
    result = getattr(job, f"user_{verb}")()
    if result is not None:
        await result


@pytest.mark.parametrize("verb", JobVerb)
@pytest.mark.parametrize("status", JobStatus)
async def test_job_verb_in_a_state_that_refuses_it_changes_nothing(
    verb: JobVerb, status: JobStatus
) -> None:
    if status in VERBS[verb] or verb in OF_BLOCK_JOBS:
        return
    host = ToyHost()
    job = ToyJob(host, "a", JobTxn())
    job.status = status
    job.user_paused = verb is JobVerb.RESUME
    before = len(host.events)
    with pytest.raises(QmpError) as caught:
        await use(job, verb)
    assert caught.value.desc == (f"Job 'a' in state '{status}' cannot accept command verb '{verb}'")
    assert job.status is status
    assert len(host.events) == before


def test_job_states_end_in_null_and_every_state_but_null_has_a_way_on() -> None:
    for status, nexts in TRANSITIONS.items():
        assert bool(nexts) != (status is JobStatus.NULL)
