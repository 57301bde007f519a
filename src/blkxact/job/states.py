"""The states of a job, and what may be done in each.

QEMU's counterpart: JobSTT and JobVerbTable in ``job.c``; ``qapi/job.json`` (JobStatus, JobVerb).
"""

from __future__ import annotations

from typing import Final

from blkxact.enums import JobStatus, JobVerb
from blkxact.errors import QmpError

S = JobStatus

TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    S.UNDEFINED: frozenset({S.CREATED}),
    S.CREATED: frozenset({S.RUNNING, S.ABORTING, S.NULL}),
    S.RUNNING: frozenset({S.PAUSED, S.READY, S.WAITING, S.ABORTING}),
    S.PAUSED: frozenset({S.RUNNING}),
    S.READY: frozenset({S.STANDBY, S.WAITING, S.ABORTING}),
    S.STANDBY: frozenset({S.READY}),
    S.WAITING: frozenset({S.PENDING, S.ABORTING}),
    S.PENDING: frozenset({S.ABORTING, S.CONCLUDED}),
    S.ABORTING: frozenset({S.ABORTING, S.CONCLUDED}),
    S.CONCLUDED: frozenset({S.NULL}),
    S.NULL: frozenset(),
}

_ALIVE: Final = frozenset({S.CREATED, S.RUNNING, S.PAUSED, S.READY, S.STANDBY})

VERBS: Final[dict[JobVerb, frozenset[JobStatus]]] = {
    JobVerb.CANCEL: _ALIVE | {S.WAITING, S.PENDING},
    JobVerb.PAUSE: _ALIVE,
    JobVerb.RESUME: _ALIVE,
    JobVerb.SET_SPEED: _ALIVE,
    JobVerb.COMPLETE: frozenset({S.READY, S.STANDBY}),
    JobVerb.FINALIZE: frozenset({S.PENDING}),
    JobVerb.DISMISS: frozenset({S.CONCLUDED}),
    JobVerb.CHANGE: _ALIVE,
}


def check_verb(job_id: str | None, status: JobStatus, verb: JobVerb) -> None:
    """Raise ``QmpError`` unless a job in ``status`` takes ``verb``."""
    if status not in VERBS[verb]:
        raise QmpError(f"Job '{job_id}' in state '{status}' cannot accept command verb '{verb}'")


PAUSED_FORM: Final = {
    JobStatus.RUNNING: JobStatus.PAUSED,
    JobStatus.READY: JobStatus.STANDBY,
}
RESUMED_FORM: Final = {paused: working for working, paused in PAUSED_FORM.items()}
