"""What the model knows of jobs and transactions, and the invariants of their events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .bitmaps import Chain, ModelBitmap
from .contents import Contents

CANCELED = "Operation canceled"

NEXT = {
    None: {"created"},
    "created": {"running", "aborting", "null"},
    "running": {"paused", "ready", "waiting", "aborting"},
    "paused": {"running"},
    "waiting": {"pending", "aborting"},
    "pending": {"aborting", "concluded"},
    "aborting": {"aborting", "concluded"},
    "concluded": {"null"},
    "null": set(),
}
"""The statuses that may follow each (JobSTT); no job of ours is ever ready."""


@dataclass(eq=False)
class ModelTxn:
    """One transaction that was committed."""

    mode: str
    id: str | None
    jobs: list[ModelJob] = field(default_factory=list)
    fates: dict[tuple[str, str], str] = field(default_factory=dict)
    reported: bool = False

    @property
    def over(self) -> bool:
        return all(job.ended is not None for job in self.jobs)

    @property
    def good(self) -> bool:
        return all(job.ended == "completed" for job in self.jobs)


@dataclass(eq=False)
class ModelJob:
    """One backup job.

    ``chain``: where the backup can be read when it is good; ``only``: the granules of ``bitmap``
    to which that is restricted (a target without what lies below it).
    """

    id: str
    node: str
    sync: str
    bitmap: ModelBitmap | None
    bitmap_mode: str | None
    path: str
    chain: Chain
    complete_chain: bool
    target_node: str | None = None
    auto_finalize: bool = True
    auto_dismiss: bool = True
    txn: ModelTxn | None = None
    snapshot: Contents | None = None
    initial: int = 0
    ended: str | None = None
    verified: bool = False
    statuses: list[str] = field(default_factory=list)

    @property
    def status(self) -> str | None:
        return self.statuses[-1] if self.statuses else None


def claim_succeeds(job: ModelJob) -> bool:
    """Return whether this user of a frozen bitmap lets it abdicate."""
    assert job.txn is not None
    if job.bitmap_mode == "always":
        return True
    good = job.ended == "completed"
    if job.txn.mode == "deferred":
        good = job.txn.good
    return good and job.bitmap_mode == "on-success"


def check_fate(txn: ModelTxn, jobs: list[ModelJob], outcome: str) -> None:
    """Check what became of a bitmap against how its users ended."""
    expected = {"abdicated"} if all(map(claim_succeeds, jobs)) else {"reclaimed", "kept"}
    modes = [job.bitmap_mode for job in jobs]
    if "never" not in modes:
        expected.discard("kept")
    ends = [(job.id, job.ended, job.bitmap_mode) for job in jobs]
    assert outcome in expected, f"{outcome}, not {expected}: {txn.mode}, {ends}"


class Events:
    """Listens to the emulator and checks its events against the invariants."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        """Started and not dismissed."""
        self.preparing: dict[str, list[str]] = {}
        """Statuses of jobs whose transaction is not committed yet."""
        self.txns: dict[str, ModelTxn] = {}
        """Transactions with an id whose end was not reported yet."""
        self.finished: list[ModelJob] = []
        self.log: list[str] = []
        self.settled: list[tuple[ModelTxn, list[ModelJob], str]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        name, data = event["event"], event.get("data", {})
        self.log.append(f"event {name} {data}")
        handler = getattr(self, "on_" + name.lower(), None)
        if handler is not None:
            handler(data)

    def started(self, job: ModelJob) -> None:
        """A job's transaction is being committed."""
        job.statuses = self.preparing.pop(job.id)
        assert job.statuses == ["created"], job.statuses
        self.jobs[job.id] = job

    def on_job_status_change(self, data: dict[str, Any]) -> None:
        job = self.jobs.get(data["id"])
        statuses = job.statuses if job else self.preparing.setdefault(data["id"], [])
        last = statuses[-1] if statuses else None
        assert data["status"] in NEXT[last], f"job {data['id']}: {last} -> {data['status']}"
        statuses.append(data["status"])
        if job is None:
            assert data["status"] in {"created", "aborting", "concluded", "null"}
            if data["status"] == "null":
                del self.preparing[data["id"]]
            return
        if data["status"] == "concluded":
            assert job.ended is not None, f"job {job.id} concluded without a word"
        if data["status"] == "null":
            del self.jobs[job.id]
            self.finished.append(job)

    def on_block_job_completed(self, data: dict[str, Any]) -> None:
        self._ended(data["device"], "failed" if "error" in data else "completed")

    def on_block_job_cancelled(self, data: dict[str, Any]) -> None:
        self._ended(data["device"], "cancelled")

    def _ended(self, job_id: str, how: str) -> None:
        job = self.jobs[job_id]
        assert job.ended is None, f"job {job_id} ended twice: {job.ended}, {how}"
        assert job.status == ("pending" if how == "completed" else "aborting"), job.statuses
        job.ended = how

    def on_block_job_pending(self, data: dict[str, Any]) -> None:
        job = self.jobs[data["id"]]
        assert not job.auto_finalize
        assert job.status == "pending", job.statuses

    def on_transaction_completed(self, data: dict[str, Any]) -> None:
        txn = self.txns.pop(data["id"])
        assert not txn.reported
        txn.reported = True
        assert txn.over, "a transaction was reported before its jobs were over"
        assert data["completion-mode"] == txn.mode
        errors = {job.get("error", "") for job in data["jobs"]} - {""}
        cancelled = "cancelled" if errors else "completed"
        assert data["status"] == ("failed" if errors - {CANCELED} else cancelled), data
        assert [job["id"] for job in data["jobs"]] == [job.id for job in txn.jobs]
        for report, job in zip(data["jobs"], txn.jobs, strict=True):
            assert ("error" in report) == (job.ended != "completed"), report
            assert job.ended != "failed" or report["error"] != CANCELED
        fates = {(one["node"], one["name"]): one["outcome"] for one in data["bitmaps"]}
        assert fates == txn.fates
        assert len(fates) == len(data["bitmaps"]), "a bitmap was reported twice"

    def forget(self) -> None:
        """The emulator was killed; what it had not told is never told."""
        for pending in (self.jobs, self.preparing, self.txns, self.finished, self.settled):
            pending.clear()

    def check_settled(self) -> None:
        """Check fates of bitmaps, once the jobs that decide about them have told how they ended."""
        waiting = []
        for txn, jobs, outcome in self.settled:
            if all(job.ended for job in jobs) and (txn.mode != "deferred" or txn.over):
                check_fate(txn, jobs, outcome)
                if txn.mode == "grouped":
                    assert len({job.ended == "completed" for job in txn.jobs if job.ended}) <= 1
            else:
                waiting.append((txn, jobs, outcome))
        self.settled = waiting
