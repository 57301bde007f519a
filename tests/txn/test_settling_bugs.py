"""A bug in one job, callback or release strands nobody: every position, every completion mode."""

from __future__ import annotations

import pytest

from blkxact.enums import ActionCompletionMode
from blkxact.errors import QmpError
from blkxact.job.completion import POLICIES
from blkxact.job.txn import JobTxn
from blkxact.testing.waiting import until_idle

from .toys import ToyHost, ToyJob

MODES = list(ActionCompletionMode)
COUNT = 3


def bug() -> None:
    raise RuntimeError("a bug")


async def all_concluded(jobs: list[ToyJob]) -> None:
    await until_idle()
    assert all(str(job.status) in {"concluded", "null"} for job in jobs)


def make(mode: ActionCompletionMode) -> tuple[ToyHost, JobTxn, list[ToyJob]]:
    host = ToyHost()
    txn = JobTxn(mode)
    txn.ref("launch")
    jobs = [ToyJob(host, str(number), txn) for number in range(COUNT)]
    return host, txn, jobs


async def run(txn: JobTxn, jobs: list[ToyJob]) -> None:
    for job in jobs:
        job.start()
    txn.unref("launch")
    for job in jobs:
        job.end()


def test_every_mode_has_a_policy() -> None:
    assert set(POLICIES) == set(ActionCompletionMode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", range(COUNT))
@pytest.mark.parametrize("stage", ["commit", "clean"])
async def test_bug_in_one_job_lets_the_others_settle(
    mode: ActionCompletionMode, position: int, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, txn, jobs = make(mode)
    setattr(jobs[position], stage, bug)
    await run(txn, jobs)
    await all_concluded(jobs)
    assert txn.over
    settled = {line.split()[1] for line in host.log if line.startswith("commit")}
    others = {str(number) for number in range(COUNT) if number != position}
    assert others <= settled
    assert "internal error" in caplog.text
    if stage == "commit":
        assert jobs[position].error == "Internal error: RuntimeError('a bug')"
    assert all(job.ret == 0 for job in jobs if job is not jobs[position])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", range(COUNT))
async def test_bug_in_one_callback_lets_the_others_run(
    mode: ActionCompletionMode, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    host, txn, jobs = make(mode)
    del host
    ran: list[object] = []

    def callback(number: int, ret: int) -> None:
        ran.append((number, ret))
        if number == position:
            bug()

    def release(number: int) -> None:
        ran.append(number)
        if number == position:
            bug()

    for number in range(COUNT):
        txn.on_complete(lambda ret, number=number: callback(number, ret))
        txn.keep_until_over(lambda number=number: release(number))
    await run(txn, jobs)
    await all_concluded(jobs)
    assert ran == [(0, 0), (1, 0), (2, 0), 0, 1, 2]
    assert txn.over
    assert "internal error" in caplog.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [OSError(28, "full"), QmpError("no"), RuntimeError("a bug")])
async def test_last_work_that_fails_fails_the_job(
    mode: ActionCompletionMode, error: Exception
) -> None:
    host, txn, jobs = make(mode)

    async def finalize_prepare() -> None:
        raise error

    jobs[1].finalize_prepare = finalize_prepare  # type: ignore[method-assign]
    await run(txn, jobs)
    await all_concluded(jobs)
    assert jobs[1].ret == (-28 if isinstance(error, OSError) else -5)
    assert "abort 1" in host.log
    assert ("commit 0" in host.log) == (mode is not ActionCompletionMode.GROUPED)
