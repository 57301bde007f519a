"""Policy of copying: what the background job and the copy-before-write filter share.

``BlockCopy`` copies what is set in its copy bitmap from one node to another, at one point in time.
Two users work at once: the job copies run by run (``copy_dirty``), and the filter copies what a
guest is about to overwrite (``copy_before_write``).

Invariants:

* A set bit is a cluster still to be copied. Who copies it clears it first, in one step with
  entering the range into the table of pieces in flight; on failure it is set again. Nothing is
  lost, and no cluster is copied by two at a time.
* A guest write goes on only when none of its clusters is set or in flight, so a cluster that is
  set reads as it did at the start, and so does its place in a file.
* A piece once started runs to its end, whoever waits for it is cancelled or not: a late write of
  an abandoned copy would bring newer bytes into the target.
* Memory is bounded: ``workers`` buffers of ``BUFFER_STEP``; bytes that lie in a file as they are
  never come into Python.
* Every failure is a ``CopyError`` that names its side.

QEMU's counterpart: ``block/block-copy.c``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from blkxact.storage.api import FileRange, Runs
from blkxact.storage.errors import CopyError

from .copy_plan import Method, Segment, parts_of_runs, plan, round_down, round_up
from .copy_sweep import MIB, STATUS_WINDOW, CopyControl, Sweep, Unlimited, may_go_on
from .copy_zeroes import zero_spans, zero_target
from .types import WriteFlags

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

    from .child import Child
    from .node import BlockNode

log = logging.getLogger(__name__)

DEFAULT_CLUSTER_SIZE = 1 << 16
"""Smallest unit of copying, and the unit when the target does not report its own."""
COPY_STEP = 16 * MIB
"""Most bytes of one copy between files."""
BUFFER_STEP = MIB
"""Most bytes of one read or write through Python."""
DEFAULT_WORKERS = 2

_LENGTH = itemgetter(1)

ProgressCallback = Callable[[int, int], None]
"""Called with the bytes that were just done and those that remain, both in whole clusters."""


class _Piece:
    """Runs that one task copies; their bits are clear, and guests wait for them."""

    def __init__(self, runs: list[tuple[int, int]]) -> None:
        self.runs = runs
        self.copied: list[tuple[int, int]] = []
        """What is in the target already."""
        self.task: asyncio.Task[None] | None = None

    def overlaps(self, start: int, end: int) -> bool:
        return any(offset < end and start < offset + length for offset, length in self.runs)


class BlockCopy:
    """Copies the set bits of ``copy_bitmap`` from ``source`` to ``target``.

    ``cluster_size`` is ``copy_bitmap``'s granularity. ``compress`` writes compressed clusters.
    ``skip_unallocated`` copies only what the source's own layer holds (sync=top).
    ``target_is_blank`` says that what the target's own layer does not hold reads as zeroes for
    ever (a new image without backing file): zeroes are then not written there.
    ``workers`` is how many pieces are copied at a time; one alone copies strictly in order.
    ``max_chunk`` bounds a worker's piece (BackupPerf), 0 for none.
    """

    def __init__(
        self,
        source: Child,
        target: Child,
        *,
        copy_bitmap: DirtyBitmap,
        cluster_size: int,
        compress: bool = False,
        skip_unallocated: bool = False,
        target_is_blank: bool = False,
        workers: int = DEFAULT_WORKERS,
        max_chunk: int = 0,
        progress: ProgressCallback | None = None,
    ) -> None:
        assert copy_bitmap.granularity == cluster_size
        self.source = source
        self.target = target
        self.copy_bitmap = copy_bitmap
        self.cluster_size = cluster_size
        self.compress = compress
        self.skip_unallocated = skip_unallocated
        self.target_is_blank = target_is_blank
        self.workers = workers
        self.max_chunk = max_chunk
        self.progress = progress
        self.length = copy_bitmap.size
        self.base = backing_chain_next(source.node)
        """What lies below the own layer; a snapshot taken later does not change what that is."""
        self._pieces: list[_Piece] = []
        self._in_flight_bytes = 0

    @property
    def remaining(self) -> int:
        """Return the bytes still to be copied, in whole clusters."""
        return self.copy_bitmap.count() + self._in_flight_bytes

    async def copy_dirty(self, control: CopyControl | None = None) -> None:
        """Copy all that is set, to the end; the background job's half.

        Raises ``CopyError`` for the first piece that failed, when all that was started is over.
        Called again it goes on with what is still set.
        """
        control = control or Unlimited()
        while not await self._idle_and_clean():
            await Sweep(self, control).run()

    async def copy_before_write(self, offset: int, length: int) -> None:
        """Return when no cluster of the range is set or in flight; the filter's half.

        Raises ``CopyError`` when a copy that this call started failed.
        """
        start = round_down(offset, self.cluster_size)
        end = min(round_up(offset + length, self.cluster_size), self.length)
        while True:
            runs = list(self.copy_bitmap.runs(start, end))
            if runs:
                await finished(self.start_piece(runs))
                continue
            foreign = [p for p in self._pieces if p.overlaps(start, end)]
            if not foreign:
                return
            # A foreign failure sets bits again, and then this call copies them itself.
            await asyncio.wait([p.task for p in foreign if p.task])

    def reset(self, offset: int, length: int) -> None:
        """Forget a range: it will not be copied."""
        self.copy_bitmap.unmark(offset, length)
        self._report(0)

    async def forget(self, offset: int, length: int) -> None:
        """Forget a range; return when no copy of it is under way."""
        self.reset(offset, length)
        while foreign := [p.task for p in self._pieces if p.overlaps(offset, offset + length)]:
            await asyncio.wait([task for task in foreign if task])
            self.reset(offset, length)  # a failed copy has set its bits again

    async def reset_unallocated(self, control: CopyControl | None = None) -> None:
        """Clear the bits of clusters that the source's own layer does not hold (sync=top).

        Raises ``CopyError`` when the block status of the source cannot be had.
        """
        control = control or Unlimited()
        cursor = 0
        while cursor < self.length:
            await may_go_on(control)
            length = min(STATUS_WINDOW, self.length - cursor)
            try:
                segments = await self._segments(cursor, length, own_layer_only=True)
            except OSError as error:
                raise CopyError(error, reading=True) from error
            for segment in segments:
                if segment.method is Method.SKIP:
                    self.copy_bitmap.unmark(segment.offset, segment.length)
            cursor += length
            self._report(0)

    def start_piece(
        self, runs: list[tuple[int, int]], segments: Sequence[Segment] | None = None
    ) -> asyncio.Task[None]:
        """Take runs whose bits are all set; return the task that copies them."""
        piece = _Piece(runs)
        for offset, length in runs:
            self.copy_bitmap.unmark(offset, length)
        self._in_flight_bytes += self._clusters(runs)
        self._pieces.append(piece)
        piece.task = asyncio.create_task(self._run_piece(piece, segments))
        piece.task.add_done_callback(_notice)
        return piece.task

    async def _run_piece(self, piece: _Piece, segments: Sequence[Segment] | None) -> None:
        done = False
        try:
            if segments is None:
                start = piece.runs[0][0]
                end = sum(piece.runs[-1])
                segments = await self.segments_or_bytes(start, end - start)
            parts = list(parts_of_runs(piece.runs, segments))
            assert total(parts) == total(piece.runs), "a cluster is copied or stays set"
            await self._copy_parts(piece, parts)
            done = True
        finally:
            self._end_piece(piece, done=done)

    def _end_piece(self, piece: _Piece, *, done: bool) -> None:
        """Leave the table; what of it was not done is set again."""
        self._pieces.remove(piece)
        clusters = self._clusters(piece.runs)
        self._in_flight_bytes -= clusters
        if not done:
            for offset, length in piece.runs:
                self.copy_bitmap.mark(offset, length)
            for offset, length in piece.copied:
                self.copy_bitmap.unmark(offset, length)
            clusters = self._clusters(piece.copied)
        self._report(clusters)

    def _clusters(self, runs: Sequence[tuple[int, int]]) -> int:
        """Return the bytes of runs in whole clusters; only the disk's end can cut the last one."""
        return round_up(total(runs), self.cluster_size)

    def _report(self, done_bytes: int) -> None:
        if self.progress is not None:
            self.progress(done_bytes, self.remaining)

    async def _idle_and_clean(self) -> bool:
        """Wait for pieces of the filter; return whether nothing is left to copy."""
        if self.copy_bitmap.next_dirty(0) is not None:
            return False
        foreign = [p.task for p in self._pieces if p.task]
        if foreign:
            await asyncio.wait(foreign)
        return self.copy_bitmap.next_dirty(0) is None

    async def segments_or_bytes(self, offset: int, length: int) -> list[Segment]:
        """Return how a range is copied; without a block status, by reading it."""
        try:
            return await self._segments(offset, length, own_layer_only=self.skip_unallocated)
        except OSError:
            return [Segment(offset, length, Method.READ)]

    async def _segments(self, offset: int, length: int, *, own_layer_only: bool) -> list[Segment]:
        base = self.base if own_layer_only else None
        extents = await self.source.block_status(offset, length, base=base)
        return plan(extents, self.cluster_size, self.length, own_layer_only=own_layer_only)

    async def _copy_parts(self, piece: _Piece, parts: Sequence[Segment]) -> None:
        """Copy the parts of a piece: with one worker one after the other, else as it is cheapest.

        Parts are whole clusters; a failure leaves those before it copied.
        """
        if self.workers > 1:
            await self._copy_batch(piece, parts)
        else:
            for part in parts:
                await self._copy_batch(piece, [part])

    async def _copy_batch(self, piece: _Piece, parts: Sequence[Segment]) -> None:
        """Copy parts: zeroes first, and what lies in files together, at the end."""
        for span in zero_spans(parts):
            with writing():
                await zero_target(self.target, span, blank=self.target_is_blank)
            piece.copied += [(part.offset, part.length) for part in span]
        in_files: Runs = []
        for part in parts:
            if part.method is Method.COPY and not self.compress:
                assert part.file is not None
                place = FileRange(part.file, part.file_offset, part.length)
                in_files += _file_steps(part.offset, place)
            elif part.method is not Method.ZERO:
                if part.method is not Method.SKIP:
                    await self._read_and_write(part.offset, part.length)
                piece.copied.append((part.offset, part.length))
        if in_files:
            with writing():
                await self.target.pwrite_runs(in_files)
            piece.copied += [(offset, len(payload)) for offset, payload in in_files]

    async def _read_and_write(self, offset: int, length: int) -> None:
        flags = WriteFlags.COMPRESSED if self.compress else WriteFlags.NONE
        for start, count in _steps(offset, length, max(BUFFER_STEP, self.cluster_size)):
            try:
                data = await self.source.pread(start, count)
            except OSError as error:
                raise CopyError(error, reading=True) from error
            with writing():
                await self.target.pwrite(start, data, flags)


@contextmanager
def writing() -> Iterator[None]:
    """Attribute a failure to the target, unless its side is known already."""
    try:
        yield
    except CopyError:
        raise
    except OSError as error:
        raise CopyError(error, reading=False) from error


def total(ranges: Iterable[Sequence[Any]]) -> int:
    """Return the bytes of ranges, which begin with offset and length."""
    return sum(map(_LENGTH, ranges))


def _notice(task: asyncio.Task[None]) -> None:
    """Take notice of a failure: who waited may be cancelled, and the bits are set again."""
    if not task.cancelled():
        task.exception()


async def finished(task: asyncio.Task[None]) -> None:
    """Return or raise as ``task`` does; a cancel of the caller leaves the task alone."""
    await asyncio.wait([task])
    task.result()


def _file_steps(offset: int, place: FileRange) -> Runs:
    """Split a range of a file into copies of ``COPY_STEP`` at the most."""
    if place.length <= COPY_STEP:
        return [(offset, place)]
    return [
        (start, FileRange(place.file, place.offset + start - offset, length))
        for start, length in _steps(offset, place.length, COPY_STEP)
    ]


def _steps(offset: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    """Split a range at multiples of ``step`` from its start."""
    for start in range(offset, offset + length, step):
        yield start, min(step, offset + length - start)


def backing_chain_next(node: BlockNode) -> BlockNode | None:
    """Return the next image below ``node`` in its backing chain, past filters."""
    while node.filtered is not None:
        node = node.filtered
    return node.backing


def target_cluster_size(target: BlockNode) -> int:
    """Return the unit of copying to ``target``, in bytes: its cluster size, 64 KiB at the least.

    Without backing file a smaller unit would leave holes in the target's clusters, so a target
    that cannot tell is warned of.
    """
    node = target
    while node.filtered is not None:
        node = node.filtered
    if node.driver.cluster_size is not None:
        return max(DEFAULT_CLUSTER_SIZE, node.driver.cluster_size)
    if node.driver.format_name not in {"file", "raw"} and backing_chain_next(target) is None:
        log.warning(
            "The target block device doesn't provide information about the block size and it "
            "doesn't have a backing file. The default block size of %d bytes is used. If the "
            "actual block size of the target exceeds this default, the backup may be unusable",
            DEFAULT_CLUSTER_SIZE,
        )
    return DEFAULT_CLUSTER_SIZE
