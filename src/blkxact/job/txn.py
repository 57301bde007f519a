"""The completion object: it knows when all that a transaction started is over.

``JobTxn`` outlives the reply of the command that made it. It counts references: the transaction
holds one while it launches, and every job holds one until it has concluded. When the last goes, the
callbacks registered with ``on_complete`` run once, in order, with the return code of the whole;
then what was kept for them is released; then ``on_over`` is called.

How jobs of one transaction depend on each other is its ``completion.CompletionPolicy``.

QEMU's counterpart: JobTxn in ``job.c`` (grouped); of the 2015 series, BlkTransactionState with its
reference count and ``blk_run_transaction_callbacks``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from blkxact.enums import ActionCompletionMode, BitmapOutcome, JobStatus, TransactionStatus
from blkxact.runtime.points import Points
from blkxact.runtime.settle import Settling
from blkxact.runtime.trace import BitmapSettled, ReferenceChanged, Trace, TransactionOver, no_trace

from .completion import POLICIES, CompletionPolicy


class TxnJob(Protocol):
    """What the completion object needs to know of a job."""

    @property
    def id(self) -> str | None:
        """The job's name, for messages and for the report of the whole."""

    @property
    def type_name(self) -> str:
        """JobType."""

    @property
    def ret(self) -> int:
        """0, or the negative errno with which the job ended."""

    @property
    def status(self) -> JobStatus:
        """JobStatus."""

    @property
    def error(self) -> str | None:
        """Why it failed."""


@dataclass(frozen=True, slots=True)
class BitmapFate:
    """What became of one bitmap that a job had frozen."""

    node: str
    name: str
    outcome: BitmapOutcome


CompletionCallback = Callable[[int], None]


class JobTxn:
    """The refcounted completion object of one transaction.

    ``txn_id`` is ``properties.id``. ``on_over`` is called once, after everything else.
    """

    def __init__(
        self,
        mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL,
        txn_id: str | None = None,
        *,
        on_over: Callable[[JobTxn], None] | None = None,
        trace: Trace = no_trace,
        points: Points | None = None,
    ) -> None:
        self.mode = mode
        self.id = txn_id
        self.jobs: list[TxnJob] = []
        self.fates: list[BitmapFate] = []
        self.holders: list[str] = []
        self.launched = False
        """The transaction was committed; otherwise its end is not reported."""
        self.over = False
        self.aborting = False
        """Grouped mode: a job failed, all others are being cancelled."""
        self._on_over = on_over
        self._callbacks: list[CompletionCallback] = []
        self._releases: list[Callable[[], None]] = []
        self._trace = trace
        self.points = Points() if points is None else points

    @property
    def policy(self) -> CompletionPolicy:
        """How its jobs depend on each other."""
        return POLICIES[self.mode]

    @property
    def references(self) -> int:
        """How many references are held."""
        return len(self.holders)

    def ref(self, holder: str) -> None:
        """Take a reference for ``holder``, which must not have one."""
        assert not self.over, "a transaction that is over cannot be taken up again"
        assert holder not in self.holders, f"{holder} already holds the transaction"
        self.holders.append(holder)
        self._trace(ReferenceChanged(self.id, "taken", holder, self.references))

    def unref(self, holder: str) -> None:
        """Drop the reference of ``holder``; the last one settles the transaction."""
        self.holders.remove(holder)
        self._trace(ReferenceChanged(self.id, "dropped", holder, self.references))
        if not self.holders:
            self._complete()

    def add_job(self, job: TxnJob) -> None:
        """Let ``job`` take part; it holds a reference until ``job_concluded``."""
        self.jobs.append(job)
        self.ref(_job_holder(job))

    def remove_job(self, job: TxnJob) -> None:
        """Forget a job that never started."""
        self.jobs.remove(job)
        self.unref(_job_holder(job))

    def job_concluded(self, job: TxnJob) -> None:
        """Drop the reference of a job that has ended; its result stays in the report."""
        self.unref(_job_holder(job))

    def on_complete(self, callback: CompletionCallback) -> None:
        """Call ``callback(ret)`` once when the last reference goes.

        ``ret`` is the return code of the whole: 0, or the first failed job's negative errno.
        """
        assert not self.over
        self._callbacks.append(callback)

    def keep_until_over(self, release: Callable[[], None]) -> None:
        """Call ``release`` after the callbacks: they can still use what it releases."""
        assert not self.over
        self._releases.append(release)

    def record_fate(self, fate: BitmapFate) -> None:
        """Note what became of a bitmap."""
        self.fates.append(fate)
        self._trace(BitmapSettled(self.id, fate.node, fate.name, fate.outcome))

    @property
    def ret(self) -> int:
        """The return code of the whole: a failure before a cancellation, else 0."""
        rets = [job.ret for job in self.jobs if job.ret]
        failures = [ret for ret in rets if ret != -errno.ECANCELED]
        return (failures or rets or [0])[0]

    @property
    def status(self) -> TransactionStatus:
        """TransactionStatus."""
        if not self.over:
            return TransactionStatus.RUNNING
        if not self.ret:
            return TransactionStatus.COMPLETED
        return (
            TransactionStatus.CANCELLED
            if self.ret == -errno.ECANCELED
            else TransactionStatus.FAILED
        )

    def report(self) -> dict[str, Any]:
        """Return the members of ``TRANSACTION_COMPLETED``."""
        data: dict[str, Any] = {"id": self.id} if self.id is not None else {}
        data |= {
            "completion-mode": str(self.mode),
            "status": str(self.status),
            "jobs": [_job_report(job) for job in self.jobs],
            "bitmaps": [
                {"node": fate.node, "name": fate.name, "outcome": fate.outcome}
                for fate in self.fates
            ],
        }
        return data

    def _complete(self) -> None:
        ret = self.ret
        self._trace(TransactionOver(self.id, ret))
        with Settling("the end of a transaction") as settling:
            for callback in self._callbacks:
                settling.call(callback, ret)
            for release in self._releases:
                settling.call(release)
            self._callbacks.clear()
            self._releases.clear()
            self.over = True
            self.points.hit("transaction.over", txn=self.id)
            if self._on_over is not None:
                settling.call(self._on_over, self)


def _job_holder(job: TxnJob) -> str:
    return f"job {job.id}"


def _job_report(job: TxnJob) -> dict[str, Any]:
    report: dict[str, Any] = {"type": job.type_name}
    if job.id is not None:
        report["id"] = job.id
    if job.error is not None:
        report["error"] = job.error
    return report
