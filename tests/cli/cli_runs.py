"""The command line as a person meets it: a process, what it prints, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 60


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str


def blkxact(*words: str | Path, cwd: Path | None = None) -> Done:
    """Run ``blkxact`` with ``words``."""
    done = subprocess.run(
        [sys.executable, "-m", "blkxact", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Done, *, status: int = 1) -> str:
    """Check that a command ended with one line of error; return that line."""
    assert done.status == status, done
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("blkxact: ")
    return lines[0].removeprefix("blkxact: ")
