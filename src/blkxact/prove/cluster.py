"""Cases on a Dask cluster: each thread of each worker has a process of its own that runs them.

A worker of Dask has several threads and must not fork, so it starts an interpreter for each thread
once (``server``), which forks the emulators. A case that was on a worker that died is run on
another, as Dask does with any task.

Workers need blkxact with the extra ``dask``, and the scenario and the tool at the same paths.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, cast

from distributed import Client, KilledWorker, WorkerPlugin, get_worker

from .results import Result

PLUGIN: Final = "blkxact-prove"
CONNECT_S: Final = 10
"""Seconds in which the scheduler answers."""


class ClusterError(Exception):
    """The cluster cannot be used."""


@contextmanager
def cluster_executor(
    address: str, prepare: Callable[[Path], None]
) -> Iterator[tuple[Executor, int]]:
    """Give an executor for calls of ``run_on_worker``, and how many cases it runs at a time.

    Each process that runs cases begins with ``prepare``. Raises ``ClusterError``.
    """
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"{address}: no scheduler answers: {error}") from error
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ClusterError(f"{address}: the scheduler has no workers")
        client.register_plugin(CaseServers(prepare), name=PLUGIN)
        yield client.get_executor(pure=False), threads
    except KilledWorker as error:
        raise ClusterError(f"{address}: a case ended several workers: {error}") from error
    finally:
        client.close()


def run_on_worker(call: Callable[..., Result]) -> Result:
    """Run a case in a process of this worker; ``call`` takes the scratch directory."""
    return cast("CaseServers", get_worker().plugins[PLUGIN]).run(call)


class CaseServers(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """The processes of one worker, one for each of its threads."""

    def __init__(self, prepare: Callable[[Path], None]) -> None:
        self._prepare = prepare

    def setup(self, worker: Any) -> None:
        """Start them."""
        self._all = [CaseServer(self._prepare) for _ in range(worker.state.nthreads)]
        self._idle: SimpleQueue[CaseServer] = SimpleQueue()
        for each in self._all:
            self._idle.put(each)

    def teardown(self, worker: Any) -> None:
        """End them."""
        del worker
        for each in self._all:
            each.close()

    def run(self, call: Callable[..., Result]) -> Result:
        """Run a case in one that is idle."""
        server = self._idle.get()
        try:
            return server.run(call)
        finally:
            self._idle.put(server)


class CaseServer:
    """The handle of one process."""

    def __init__(self, prepare: Callable[[Path], None]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "blkxact.prove.server", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(prepare)

    def run(self, call: Callable[..., Result]) -> Result:
        """Return the result of a case, or raise what it raises."""
        self._send(call)
        assert self._process.stdout is not None
        found = pickle.load(self._process.stdout)  # noqa: S301 - from our own process
        if isinstance(found, BaseException):
            raise found
        return cast("Result", found)

    def close(self) -> None:
        """End it, with the case that it runs."""
        self._process.terminate()
        self._process.wait()

    def _send(self, thing: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(thing, self._process.stdin)
        self._process.stdin.flush()
