"""Jobs of any kind.

QEMU's counterpart: ``qapi/job.json``.
"""

from __future__ import annotations

from .common import QapiModel


class JobId(QapiModel):
    """job-cancel, -complete, -dismiss, -finalize, -pause, -resume."""

    id: str
