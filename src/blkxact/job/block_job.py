"""A job on block nodes: its speed, its error policy, and the BLOCK_JOB_* events.

QEMU's counterpart: ``blockjob.c``; ``qapi/block-core.json`` (BlockJobInfo, BlockdevOnError).
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Any

from blkxact.errors import QmpError, strerror
from blkxact.throttle.rate_limit import RateLimit

from .job import Job, JobHost
from .states import JobStatus, JobVerb, check_verb
from .txn import JobTxn


class OnError(StrEnum):
    """BlockdevOnError."""

    REPORT = "report"
    IGNORE = "ignore"
    ENOSPC = "enospc"
    STOP = "stop"
    AUTO = "auto"


class ErrorAction(StrEnum):
    """BlockErrorAction."""

    IGNORE = "ignore"
    REPORT = "report"
    STOP = "stop"


class IoStatus(StrEnum):
    """BlockDeviceIoStatus."""

    OK = "ok"
    FAILED = "failed"
    NOSPACE = "nospace"


def error_action(policy: OnError, error: OSError) -> ErrorAction:
    """Return what a policy says about an error."""
    if policy in (OnError.ENOSPC, OnError.AUTO):
        return ErrorAction.STOP if error.errno == errno.ENOSPC else ErrorAction.REPORT
    return ErrorAction(str(policy))


class BlockJob(Job):
    """A job with ``speed`` (bytes a second, 0: no limit) and an I/O status."""

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        *,
        speed: int = 0,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        check_speed(speed)
        self.rate = RateLimit(host.clock, speed)
        self.io_status = IoStatus.OK
        super().__init__(host, job_id, txn, auto_finalize=auto_finalize, auto_dismiss=auto_dismiss)

    def set_speed(self, speed: int) -> None:
        """Change the speed (block-job-set-speed)."""
        check_verb(self.id, self.status, JobVerb.SET_SPEED)
        check_speed(speed)
        self.rate.set_speed(speed)
        self.kick()

    def handle_error(self, policy: OnError, error: OSError, *, reading: bool) -> ErrorAction:
        """Apply the error policy to a failed request; ``STOP`` pauses the job for the user."""
        action = error_action(policy, error)
        operation = "read" if reading else "write"
        self.host.trace(f"job {self.id}: {operation}: {strerror(error)}; action: {action}")
        if self.id is not None:
            self.host.emit(
                "BLOCK_JOB_ERROR",
                {"device": self.id, "operation": operation, "action": str(action)},
            )
        if action is ErrorAction.STOP:
            if not self.user_paused:
                self.user_paused = True
                self.pause_count += 1
            if self.io_status is IoStatus.OK:
                full = error.errno == errno.ENOSPC
                self.io_status = IoStatus.NOSPACE if full else IoStatus.FAILED
        return action

    def user_resumed(self) -> None:
        """Forget the error that paused the job."""
        self.io_status = IoStatus.OK

    def announce_end(self) -> None:
        """Send BLOCK_JOB_COMPLETED or BLOCK_JOB_CANCELLED."""
        if self.cancelled:
            self._announce("BLOCK_JOB_CANCELLED")
        elif self.ret:
            self._announce("BLOCK_JOB_COMPLETED", error=self.error)
        else:
            self._announce("BLOCK_JOB_COMPLETED")

    def announce_ready(self) -> None:
        """Send BLOCK_JOB_READY."""
        self._announce("BLOCK_JOB_READY")

    def announce_pending(self) -> None:
        """Send BLOCK_JOB_PENDING."""
        if self.id is not None:
            self.host.emit("BLOCK_JOB_PENDING", {"type": self.type_name, "id": self.id})

    def _announce(self, event: str, **more: Any) -> None:
        if self.id is not None:
            data = {
                "type": self.type_name,
                "device": self.id,
                "len": self.total_progress,
                "offset": self.current_progress,
                "speed": self.rate.speed,
            }
            self.host.emit(event, data | more)

    def block_job_info(self) -> dict[str, Any]:
        """Return BlockJobInfo."""
        info = {
            "type": self.type_name,
            "device": self.id,
            "len": self.total_progress,
            "offset": self.current_progress,
            # A client that paused the job waits until it really rests.
            "busy": self.is_paused and self.started and not self.is_idle(),
            "paused": self.is_paused,
            "speed": self.rate.speed,
            "io-status": str(self.io_status),
            "ready": self.status in (JobStatus.READY, JobStatus.STANDBY),
            "status": str(self.status),
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
        }
        if self.ret:
            info["error"] = self.error
        return info


def check_speed(speed: int) -> None:
    """Raise ``QmpError`` for a speed below zero."""
    if speed < 0:
        raise QmpError("Parameter 'speed' expects a non-negative value")
