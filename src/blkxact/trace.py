"""What ``serve -v`` tells a person: one line a step.

A room that takes a step calls its ``Trace``; the daemon decides whether anyone reads it.
"""

from __future__ import annotations

from collections.abc import Callable

Trace = Callable[[str], None]


def no_trace(line: str) -> None:
    """Tell nobody."""
