"""What became of a job, as events and ``query-jobs`` report it.

An outcome is a text: ``completed``, ``cancelled``, ``failed: `` and why, or, when nothing says how
the job ended, ``ended`` (it is gone) or ``unknown`` (the connection is).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Final

ENDINGS: Final = {
    "BLOCK_JOB_COMPLETED": "completed",
    "BLOCK_JOB_CANCELLED": "cancelled",
}
"""Events that end a block job."""

CANCELLED_ERROR: Final = os.strerror(errno.ECANCELED)
"""The ``error`` that ``query-jobs`` has for a cancelled job."""


def event_outcome(event: Mapping[str, Any]) -> str:
    """Return the outcome that an event of ``ENDINGS`` reports."""
    error = event["data"].get("error")
    return f"failed: {error}" if error is not None else ENDINGS[event["event"]]


def info_outcome(info: Mapping[str, Any]) -> str:
    """Return the outcome of a concluded job, an entry of ``query-jobs``."""
    error = info.get("error")
    if error is None:
        return "completed"
    return "cancelled" if error == CANCELLED_ERROR else f"failed: {error}"


def is_success(outcome: str) -> bool:
    """Return whether a job did what it was started for, as far as is known."""
    return outcome in ("completed", "ended")
