"""The background half of copying: all that is set, from the disk's start to its end.

Invariants:

* Pieces are started in order, ``workers`` of them at a time; the job is asked before each.
* The speed is waited for only when there is another piece: a sweep ends with its last one.
* Nothing of the sweep is in flight while the job pauses.
* After the first failure, or when the job or a cancelled task ends the sweep, nothing new is
  started, and what was started is waited for.

QEMU's counterpart: ``block/block-copy.c`` (block_copy_dirty_clusters, BlockCopyCallState).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Protocol

from blkxact.bitmap import DirtyBitmap

from .copy_plan import Method, Segment, round_down

MIB = 1 << 20
STATUS_WINDOW = 64 * MIB
"""Most bytes whose extents are asked for at a time, in one range or several."""
STATUS_GAP = MIB
"""Clean bytes that are asked for along with dirty ones on both sides of them."""
STATUS_SPAN = 1024 * MIB
"""Most bytes of the disk from which the ranges that are asked for at a time are gathered."""
MAX_WINDOWS = 64
"""Most ranges that are asked for at a time."""
PIECE = 16 * MIB
"""Bytes of data that one worker takes at a time; a pause or a cancel waits for so much."""
LIMITED_PIECE = MIB
"""The same when a speed is set (BLOCK_COPY_MAX_BUFFER), unless it is to be compressed."""
DEFAULT_WORKERS = 2


_COSTLY = frozenset({Method.COPY, Method.READ})


class CopyControl(Protocol):
    """What copying asks of a job between two pieces. The job ends it by raising an exception."""

    @property
    def speed(self) -> int:
        """Return bytes per second, or 0."""

    async def limit(self) -> None:
        """Return when the speed allows another piece.

        It returns early when a pause is requested, or when nothing is left to copy.
        """

    def account(self, length: int) -> None:
        """Count a piece of ``length`` bytes, which is about to start, against the speed."""

    def pause_requested(self) -> bool:
        """Return whether ``pause`` is to be called before the next piece."""

    async def pause(self) -> None:
        """Return when the job is resumed."""


class Unlimited:
    """The ``CopyControl`` without limits."""

    speed = 0

    async def limit(self) -> None:
        """Return at once."""

    def account(self, length: int) -> None:
        """Do nothing."""

    def pause_requested(self) -> bool:
        """Return False."""
        return False

    async def pause(self) -> None:
        """Return at once."""


async def may_go_on(control: CopyControl) -> None:
    """Return when a job without anything in flight may go on."""
    await control.limit()
    while control.pause_requested():
        await control.pause()
        await control.limit()


class Sweepable(Protocol):
    """What a sweep needs of a ``BlockCopy``."""

    copy_bitmap: DirtyBitmap
    cluster_size: int
    compress: bool

    async def segments_or_bytes(self, offset: int, length: int) -> list[Segment]:
        """Return how a range is to be copied; see ``plan``."""

    def start_piece(
        self, runs: list[tuple[int, int]], segments: Sequence[Segment], *, in_order: bool
    ) -> asyncio.Task[None]:
        """Copy dirty runs in a task of their own."""


class Sweep:
    """One pass over the set bits of ``copy``, controlled by ``control``."""

    def __init__(self, copy: Sweepable, control: CopyControl, workers: int, max_chunk: int) -> None:
        self.copy = copy
        self.control = control
        self.workers = workers
        self.max_chunk = max_chunk
        self.running: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Start a piece for all that is set; raise the first failure (``CopyError``)."""
        try:
            cursor = 0
            while windows := self._windows(cursor):
                segments: list[Segment] = []
                for start, end in windows:
                    segments += await self.copy.segments_or_bytes(start, end - start)
                await self._copy_windows(windows, segments)
                cursor = windows[-1][1]
            await self._wait(asyncio.ALL_COMPLETED)
            # A job that was to pause during the last piece does not end meanwhile.
            while self.control.pause_requested():
                await self.control.pause()
        finally:
            await self._finish()

    async def _copy_windows(
        self, windows: Sequence[tuple[int, int]], segments: Sequence[Segment]
    ) -> None:
        """Start pieces for windows whose extents are known.

        The extents remain valid: they can only change where a guest writes, and the clusters that
        it overwrites are no longer set.
        """
        size = sum(end - start for start, end in windows)
        room = PIECE * size // max(PIECE, _data_bytes(segments))
        cursor = 0
        while True:
            if self._take(cursor, windows, room):
                await self._turn()
            # A guest's write may have copied what was there before the wait.
            runs = self._take(cursor, windows, room)
            if not runs:
                return
            if self.control.speed > 0:
                runs = [_first_part(runs[0], segments)]
            cursor = sum(runs[-1])
            self.control.account(sum(length for _, length in runs))
            piece = self.copy.start_piece(runs, segments, in_order=self.workers == 1)
            self.running.append(piece)

    async def _turn(self) -> None:
        """Return when the next piece may start."""
        if len(self.running) >= self.workers:
            await self._wait(asyncio.FIRST_COMPLETED)
        if await self._is_to_pause():
            await self._wait(asyncio.ALL_COMPLETED)
            await may_go_on(self.control)

    async def _is_to_pause(self) -> bool:
        """Wait until the speed allows another piece or the job is to pause; return whether it is.

        A piece that fails meanwhile ends the wait. Raises what ends the copying.
        """
        if self.control.speed <= 0 or not self.running:
            return await self._limit()
        limit = asyncio.create_task(self._limit())
        try:
            while not limit.done():
                done, _ = await asyncio.wait(
                    [limit, *self.running], return_when=asyncio.FIRST_COMPLETED
                )
                self._note(done)
            return limit.result()
        finally:
            limit.cancel()
            await asyncio.wait([limit])

    async def _limit(self) -> bool:
        await self.control.limit()
        return self.control.pause_requested()  # in the same step: it may be withdrawn soon

    def _windows(self, cursor: int) -> list[tuple[int, int]]:
        """Return the next ranges to be asked for; none when nothing is left.

        Each starts and ends dirty and has no long clean run in it.
        """
        bitmap = self.copy.copy_bitmap
        start = bitmap.next_dirty(cursor)
        if start is None:
            return []
        windows = [(start, start)]
        room = STATUS_WINDOW
        for offset, length in bitmap.runs(start, start + STATUS_SPAN):
            begin, end = windows[-1]
            if offset > end + STATUS_GAP:
                windows.append((offset, offset))
                begin = end = offset
            last = min(offset + length, end + room)
            if last <= offset or len(windows) > MAX_WINDOWS:
                break
            room -= last - end
            windows[-1] = begin, last
        return [window for window in windows if window[0] < window[1]]

    def _take(
        self, cursor: int, windows: Sequence[tuple[int, int]], room: int
    ) -> list[tuple[int, int]]:
        """Return the next dirty runs of the windows, no more than a piece holds."""
        limited = self.control.speed > 0
        if limited:
            room = self.copy.cluster_size if self.copy.compress else LIMITED_PIECE
        if self.max_chunk:
            room = min(room, self.max_chunk)
        room = max(round_down(room, self.copy.cluster_size), self.copy.cluster_size)
        runs: list[tuple[int, int]] = []
        for start, end in windows:
            if end <= cursor:
                continue
            for offset, length in self.copy.copy_bitmap.runs(max(start, cursor), end):
                taken = min(length, room)
                runs.append((offset, taken))
                room -= taken
                if room <= 0 or limited:
                    return runs
        return runs

    async def _wait(self, until: str) -> None:
        """Wait for workers; raise the first failure."""
        if not self.running:
            return
        done, _ = await asyncio.wait(self.running, return_when=until)
        self._note(done)

    def _note(self, done: Collection[object]) -> None:
        """Take workers that are done off the list; raise the first failure."""
        failures = [task.exception() for task in self.running if task in done]
        self.running = [task for task in self.running if task not in done]
        for failure in failures:
            if failure is not None:
                raise failure

    async def _finish(self) -> None:
        """Wait for what is still running; its failures need not be reported."""
        if self.running:
            await asyncio.wait(self.running)


def _first_part(run: tuple[int, int], segments: Sequence[Segment]) -> tuple[int, int]:
    """Return the part of a run that lies in one segment: with a speed, QEMU waits after each."""
    start, length = run
    at = bisect_right(segments, start, key=attrgetter("offset")) - 1
    if at < 0 or segments[at].end <= start:
        return run
    return start, min(length, segments[at].end - start)


def _data_bytes(segments: Sequence[Segment]) -> int:
    return sum(segment.length for segment in segments if segment.method in _COSTLY)
