"""What ``serve -v`` reports: one line for each step of a transaction and each end of a job.

Whoever takes the step calls its ``Trace``; the daemon decides where the line goes.
"""

from __future__ import annotations

from collections.abc import Callable

Trace = Callable[[str], None]


def no_trace(line: str) -> None:
    """Drop the line."""
