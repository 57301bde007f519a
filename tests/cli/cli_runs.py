"""The command line as a person meets it: what it prints and its exit status."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from blkxact.cli.main import main

TIMEOUT = 60

HINTS = (
    "Is another process using the image [",
    "Did you forget a valid tls-creds?",
    "server reported: ",
    "Try block-dirty-bitmap-remove to delete this bitmap from disk",
)
"""How lines begin that QEMU prints below an error."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str


def blkxact(*words: str | Path) -> Done:
    """Run ``blkxact`` with ``words`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())


def blkxact_process(*words: str | Path) -> Done:
    """Run ``blkxact`` with ``words`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "blkxact", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Done, *, status: int = 1) -> str:
    """Check that a command ended with one line of error, and QEMU's hints; return that line."""
    assert done.status == status, done
    lines = [line for line in done.err.splitlines() if not line.startswith(HINTS)]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("blkxact: ")
    return lines[0].removeprefix("blkxact: ")


def wait_until_gone(path: Path) -> None:
    """Wait until a file is removed."""
    deadline = time.monotonic() + TIMEOUT
    while path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
