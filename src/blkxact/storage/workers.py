"""The threads and processes that serve the files of one storage, and its turns on the loop.

They are started when they are first needed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blkxact.runtime.steps import yield_turn

from .copy_process import CopyProcesses
from .copy_range import RangeCopier
from .threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

TURN_BYTES = 4 << 20
"""Inline work, in bytes, after which other tasks of the loop get a turn."""

MAX_THREADS = 16
"""Requests that wait for disks at a time, of all files."""
MAX_COPY_PROCESSES = 2
"""One copies about as fast as the loop can plan for it."""


class Workers:
    """What does a storage's work.

    ``copy_processes`` is how many processes may copy at a time; None: as many as there are
    processors besides the event loop's, up to ``MAX_COPY_PROCESSES``.
    """

    def __init__(self, copy_processes: int | None) -> None:
        self._threads = Threads(MAX_THREADS, "blkxact-io")
        self._writeback_thread: ThreadPoolExecutor | None = None
        if copy_processes is None:
            copy_processes = min(MAX_COPY_PROCESSES, len(os.sched_getaffinity(0)) - 1)
        self.copy_processes = CopyProcesses(copy_processes)
        self.copier = RangeCopier()
        self.in_thread = self._threads.call
        """Return what a function does in a thread; a cancelled caller still waits for its end."""
        self.turn = TURN_BYTES
        """What may still be done inline before other tasks of the loop get a turn."""

    async def yield_turn(self) -> None:
        """Let other tasks run: one whose requests all meet the page cache never waits else."""
        self.turn = TURN_BYTES
        await yield_turn()

    @property
    def writeback_thread(self) -> ThreadPoolExecutor:
        """The thread that starts write-backs, which may block for long; no request waits for it."""
        if self._writeback_thread is None:
            # Only what is copied to a disk needs one.
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

            self._writeback_thread = ThreadPoolExecutor(1, "blkxact-writeback")
        return self._writeback_thread

    def close(self) -> None:
        """End the threads and processes; a second call does nothing."""
        self.copy_processes.close()
        self._threads.close()
        if self._writeback_thread is not None:
            self._writeback_thread.shutdown()
            self._writeback_thread = None
