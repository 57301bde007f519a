"""Makes a record of many events, as a run of backups leaves it."""

from __future__ import annotations

import random
from pathlib import Path

from blkxact.monitor.recorded import (
    BitmapChanged,
    ClientConnected,
    ClientGone,
    CommandAnswered,
    CommandReceived,
    EventEmitted,
    FaultStruck,
    JobProgress,
    JobStarted,
    NbdClientConnected,
    NbdClientGone,
    NbdExportOpened,
    NbdRequests,
    RestoreDiffers,
)
from blkxact.record.writer import RecordWriter
from blkxact.runtime.trace import (
    ActionStep,
    BitmapSettled,
    JobEnded,
    JobError,
    ReferenceChanged,
    TransactionOver,
)

GRAIN = 64 << 10
SIZE = 1 << 30
BEGAN = 1_790_000_000_000_000
PROGRAM = "blkxact test"


class ManyEvents:
    """Writes backups of four disks, one after the other, until there are ``count`` events."""

    def __init__(self, path: Path, count: int, rng: random.Random) -> None:
        self._writer = RecordWriter(str(path), 1 << 30)
        self._rng = rng
        self._time = 0
        self._left = count - 1
        self._command = 0
        self._writer.begin(BEGAN, PROGRAM)

    def make(self) -> None:
        number = 0
        while self._left > 0:
            number += 1
            self._backup(number)
        self._writer.close()

    def _add(self, *events) -> None:
        for event in events:
            self._time += self._rng.randrange(20, 4000)
            if self._left > 0:
                self._writer.write(event, self._time)
            self._left -= 1

    def _ask(self, client: int, command: str, error: str | None = None) -> None:
        self._command += 1
        self._add(CommandReceived(client, self._command, command, {"of": self._command}))
        self._add(CommandAnswered(client, self._command, command, {}, error))

    def _backup(self, number: int) -> None:
        rng, disk = self._rng, f"disk{number % 4}"
        job, txn, fails = f"{disk}-{number}", f"backup-{number}", rng.random() < 0.05
        self._add(ClientConnected(number, "unix:/run/qmp"))
        self._ask(number, "qmp_capabilities")
        for _ in range(rng.randrange(20)):
            self._ask(number, "query-jobs", "no such thing" if rng.random() < 0.01 else None)
        self._read_by_nbd(number, disk)
        dirty = [[rng.randrange(SIZE // GRAIN) * GRAIN, GRAIN] for _ in range(20)]
        dirty.sort()
        self._add(
            ReferenceChanged(txn, "taken", "launch", 1),
            ActionStep("prepare", f"blockdev-backup {disk}"),
            BitmapChanged(disk, "nightly", "frozen", 20 * GRAIN, SIZE, GRAIN, dirty),
            ReferenceChanged(txn, "taken", f"job {job}", 2),
            self._status(job, "created", number),
            ActionStep("commit", f"blockdev-backup {disk}"),
            self._status(job, "running", number),
            ReferenceChanged(txn, "dropped", "launch", 1),
            JobStarted(job, "backup", disk, f"{disk}-target", SIZE, GRAIN),
        )
        for step in range(1, 11):
            done = step * len(dirty) // 10
            part = dirty[done - len(dirty) // 10 : done]
            self._add(JobProgress(job, done * GRAIN, len(dirty) * GRAIN, part))
        self._end(number, disk, job, txn, fails=fails)

    def _read_by_nbd(self, number: int, disk: str) -> None:
        self._add(NbdClientConnected(number), NbdExportOpened(number, disk))
        for _ in range(self._rng.randrange(4)):
            reads = self._rng.randrange(1, 100)
            self._add(NbdRequests(number, 1000, reads, reads * GRAIN, 0, 0, 2))
        self._add(NbdClientGone(number))

    def _end(self, number: int, disk: str, job: str, txn: str, *, fails: bool) -> None:
        outcome = "reclaimed" if fails else "abdicated"
        if fails:
            self._add(FaultStruck(f"{disk}-target.write/ENOSPC"))
            self._add(JobError(job, "write", "No space left on device", "report"))
            self._add(self._status(job, "aborting", number))
        self._add(
            BitmapChanged(disk, "nightly", outcome, 0, SIZE, GRAIN, []),
            BitmapSettled(txn, disk, "nightly", outcome),
            JobEnded(job, "failed" if fails else "completed", "No space" if fails else None),
            self._status(job, "concluded", number),
            ReferenceChanged(txn, "dropped", f"job {job}", 0),
            TransactionOver(txn, -28 if fails else 0),
            self._status(job, "null", number),
            ClientGone(number),
        )
        if fails and number % 3 == 0:
            wrong = [[SIZE // 2, 10 * GRAIN]]
            self._add(RestoreDiffers(disk, "640 KiB at 512 MiB", SIZE, wrong))

    def _status(self, job: str, status: str, number: int) -> EventEmitted:
        return EventEmitted("JOB_STATUS_CHANGE", {"id": job, "status": status}, [number])
