"""Processes that run cases.

A worker has no thread but one, so that it may fork, and has loaded what the forks need. It does not
outlive the process that made it, and its emulators do not outlive it. Tools may: so each case notes
the group of the tool that runs, and whoever made the pool ends these groups when a worker is gone.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from blkxact.storage.libc import die_with_parent

from .client import GROUP_FILE

_NOT_LOADED: Final = ("__", "pytest", "_pytest")
"""Modules whose names begin so are of whoever runs a sweep."""


@contextmanager
def worker_pool(
    workers: int, scratch: Path, modules: Sequence[str]
) -> Iterator[ProcessPoolExecutor]:
    """Give an executor whose workers have loaded ``modules``.

    At the end cases that have not begun are dropped; those that run are waited for, or ended with
    all their processes if it is left by an exception. ``scratch`` is where their directories are.
    """
    with tempfile.TemporaryDirectory(prefix="blkxact-workers-") as pids:
        executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), Path(pids), modules),
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


def load_modules(names: Iterable[str]) -> None:
    """Load what the emulator needs, so that its forks have it."""
    for name in names:
        if name not in sys.modules and not name.startswith(_NOT_LOADED):
            with suppress(Exception):
                importlib.import_module(name)


def _begin(parent: int, pids: Path, modules: Sequence[str]) -> None:
    die_with_parent(signal.SIGKILL, parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that made this one
    (pids / str(os.getpid())).touch()
    load_modules(modules)
    gc.collect()
    gc.freeze()  # the forks share all this


def end_process(pid: int) -> None:
    """End a process, or the group of a number less than 0."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
