"""A process that runs one case after the other, for a worker of a cluster.

It reads pickled calls from standard input, the first of all what prepares it, and writes their
pickled results, or what they raised, to standard output. It ends with the worker.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from blkxact.storage.libc import die_with_parent

from .client import GROUP_FILE
from .leftovers import end_leftovers
from .pool import end_process

_PREFIX: Final = "blkxact-prove-worker-"


def main(parent: int) -> None:
    """Serve until the end of the input, or until ``parent`` is gone."""
    die_with_parent(signal.SIGTERM, parent)
    signal.signal(signal.SIGTERM, _end)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that is printed comes between the results
    calls = sys.stdin.buffer
    _remove_remains()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as scratch:
        try:
            pickle.load(calls)(Path(scratch))  # noqa: S301 - from the process that started this one
            while True:
                call = pickle.load(calls)  # noqa: S301
                try:
                    found = call(Path(scratch))
                except Exception as error:  # noqa: BLE001 - it is for whoever asked
                    found = error
                pickle.dump(found, results)
                results.flush()
        except EOFError:
            return
        finally:
            for path in Path(scratch).glob(f"*/{GROUP_FILE}"):
                end_process(-int(path.read_text()))
            end_leftovers(Path(scratch))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def _remove_remains() -> None:
    """Remove the directories of processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            with suppress(OSError):
                shutil.rmtree(path)


if __name__ == "__main__":
    main(int(sys.argv[1]))
