"""Processes that are nobody's child here."""

from __future__ import annotations

from pathlib import Path


def runs(number: int) -> bool:
    """Return whether a process runs: one that has ended may be there until it is collected."""
    try:
        return bool(Path("/proc", str(number), "cmdline").read_bytes())
    except FileNotFoundError:
        return False
