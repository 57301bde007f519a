"""Processes that run cases.

A worker has no thread but one, so that it may fork, and has loaded what the forks need. It does not
outlive the process that made it; an interrupt is for that process, which then ends the cases.
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
from types import FrameType
from typing import Final, NoReturn

from blkxact.storage.libc import die_with_parent

_NOT_LOADED: Final = ("__", "pytest", "_pytest")
"""Modules whose names begin so are of whoever runs a sweep."""


@contextmanager
def worker_pool(workers: int, modules: Sequence[str]) -> Iterator[ProcessPoolExecutor]:
    """Give an executor whose workers have loaded ``modules``.

    At the end cases that have not begun are dropped; those that run are waited for, or ended if it
    is left by an exception.
    """
    with tempfile.TemporaryDirectory(prefix="blkxact-workers-") as pids:
        executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(Path(pids), modules),
        )
        try:
            yield executor
        except BaseException:
            _abort_cases(Path(pids))
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def load_modules(names: Iterable[str]) -> None:
    """Load what the emulator needs, so that its forks have it."""
    for name in names:
        if name not in sys.modules and not name.startswith(_NOT_LOADED):
            with suppress(Exception):
                importlib.import_module(name)


def _begin(pids: Path, modules: Sequence[str]) -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _abort_case)
    (pids / str(os.getpid())).touch()
    load_modules(modules)
    gc.collect()
    gc.freeze()  # the forks share all this


def _abort_case(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the case that runs; it removes what it has made."""
    del number, frame
    raise SystemExit(1)


def _abort_cases(pids: Path) -> None:
    for path in pids.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(path.name), signal.SIGTERM)
