"""Processes that run cases.

A worker has no thread but one, so that it may fork, and has loaded what the forks need. It does not
outlive the process that made it, and its emulators do not outlive it. Tools may: so each case notes
the group of the tool that runs, and whoever made the pool ends these groups when a worker is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from blkxact.storage.libc import die_with_parent

from .client import GROUP_FILE
from .leftovers import end_leftovers


@contextmanager
def worker_pool(
    workers: int, scratch: Path, prepare: Callable[[Path], None]
) -> Iterator[ProcessPoolExecutor]:
    """Give an executor whose workers begin with ``prepare(scratch)``, which can be pickled.

    At the end cases that have not begun are dropped; those that run are waited for, or ended with
    all their processes if it is left by an exception. ``scratch`` is where their directories are.
    """
    with tempfile.TemporaryDirectory(prefix="blkxact-workers-") as pids:
        executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), Path(pids), scratch, prepare),
        )
        try:
            yield executor
        except BaseException:
            for path in Path(pids).iterdir():
                end_process(int(path.name))
            raise
        finally:
            executor.shutdown(cancel_futures=True)
            for path in scratch.glob(f"*/{GROUP_FILE}"):
                end_process(-int(path.read_text()))
            end_leftovers(scratch)


def _begin(parent: int, pids: Path, scratch: Path, prepare: Callable[[Path], None]) -> None:
    die_with_parent(signal.SIGKILL, parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that made this one
    (pids / str(os.getpid())).touch()
    prepare(scratch)


def end_process(pid: int) -> None:
    """End a process, or the group of a number less than 0."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
