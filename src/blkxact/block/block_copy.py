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
* A piece once started runs to its end, even if what waits for it is cancelled: a late write of an
  abandoned copy would bring newer bytes into the target.
* Memory is bounded: one buffer for each piece in flight.
* What is copied, and how, is decided when the object is made.
* Every failure to copy is a ``CopyError`` that names its side.

QEMU's counterpart: ``block/block-copy.c``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .chain import backing_chain_next, skip_transparent
from .copy_parts import copy_parts
from .copy_plan import Method, Segment, joined, parts_of_runs, plan, round_down, round_up
from .copy_sweep import DEFAULT_WORKERS, STATUS_WINDOW, CopyControl, Sweep, Unlimited, may_go_on

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

    from .child import Child
    from .node import BlockNode

log = logging.getLogger(__name__)

DEFAULT_CLUSTER_SIZE = 1 << 16
"""Smallest unit of copying, and the unit when the target does not report its own."""

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
    ``discard_source`` discards in the source what was copied; whether that works does not matter.
    ``skip_unallocated`` copies only what the source's own layer holds (sync=top).
    ``target_is_blank`` means that what the target's own layer does not hold reads as zeroes
    forever (a new image without backing file): zeroes are then not written there.
    ``progress`` is called for everything that is copied, by the job or by the filter.
    """

    def __init__(
        self,
        source: Child,
        target: Child,
        *,
        copy_bitmap: DirtyBitmap,
        cluster_size: int,
        compress: bool = False,
        discard_source: bool = False,
        skip_unallocated: bool = False,
        target_is_blank: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        assert copy_bitmap.granularity == cluster_size
        self.source = source
        self.target = target
        self.copy_bitmap = copy_bitmap
        self.cluster_size = cluster_size
        self.compress = compress
        self.discard_source = discard_source
        self._skip_unallocated = skip_unallocated
        self.target_is_blank = target_is_blank
        self.progress = progress
        self.length = copy_bitmap.size
        self._layer = skip_transparent(source.node)
        """The source's own layer; a snapshot that is taken later comes on top of it."""
        self._pieces: list[_Piece] = []
        self._in_flight_bytes = 0

    @property
    def remaining(self) -> int:
        """Return the bytes still to be copied, in whole clusters."""
        return self.copy_bitmap.count() + self._in_flight_bytes

    def take_layer(self) -> None:
        """Take the layer that is on top of the source now as its own."""
        self._layer = skip_transparent(self.source.node)

    async def copy_dirty(
        self,
        control: CopyControl | None = None,
        *,
        workers: int = DEFAULT_WORKERS,
        max_chunk: int = 0,
    ) -> None:
        """Copy all that is set, to the end; the background job's half.

        ``workers`` pieces are copied at a time; one alone copies strictly in order. ``max_chunk``
        bounds a worker's piece (BackupPerf), 0 for none. Raises ``CopyError`` for the first piece
        that failed, when all that was started is over. Called again it goes on with what is still
        set.
        """
        control = control or Unlimited()
        if self._skip_unallocated:
            await self._reset_unallocated(control)
        while not await self._idle_and_clean():
            await Sweep(self, control, workers, max_chunk).run()

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
            # A failure of another copy sets bits again, and then this call copies them itself.
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

    async def _reset_unallocated(self, control: CopyControl) -> None:
        """Clear the bits of clusters that the source's own layer does not hold (sync=top).

        Raises ``OSError`` when the block status of the source cannot be had; no policy is asked.
        """
        cursor = 0
        while cursor < self.length:
            await may_go_on(control)
            length = min(STATUS_WINDOW, self.length - cursor)
            for segment in await self._segments(cursor, length):
                if segment.method is Method.SKIP:
                    self.copy_bitmap.unmark(segment.offset, segment.length)
            cursor += length
            self._report(0)
        self._skip_unallocated = False  # what is still set is allocated

    def start_piece(
        self,
        runs: list[tuple[int, int]],
        segments: Sequence[Segment] | None = None,
        *,
        in_order: bool = False,
    ) -> asyncio.Task[None]:
        """Take runs whose bits are all set; return the task that copies them.

        ``in_order``: one part after the other, from the first; else as it is cheapest.
        """
        piece = _Piece(runs)
        for offset, length in runs:
            self.copy_bitmap.unmark(offset, length)
        self._in_flight_bytes += self._clusters(runs)
        self._pieces.append(piece)
        piece.task = asyncio.create_task(self._run_piece(piece, segments, in_order=in_order))
        piece.task.add_done_callback(_notice)
        return piece.task

    async def _run_piece(
        self, piece: _Piece, segments: Sequence[Segment] | None, *, in_order: bool
    ) -> None:
        done = False
        try:
            if segments is None:
                start = piece.runs[0][0]
                end = sum(piece.runs[-1])
                segments = await self.segments_or_bytes(start, end - start)
            parts = parts_of_runs(piece.runs, segments)
            assert total(parts) == total(piece.runs), "a cluster is copied or stays set"
            try:
                for batch in [[part] for part in parts] if in_order else [parts]:
                    await copy_parts(
                        self.source,
                        self.target,
                        batch,
                        copied=piece.copied,
                        blank=self.target_is_blank,
                        compressed_cluster=self.cluster_size if self.compress else 0,
                    )
            finally:
                if self.discard_source:
                    await self._discard(piece, parts)
            done = True
        finally:
            self._end_piece(piece, done=done)

    async def _discard(self, piece: _Piece, parts: Iterable[Segment]) -> None:
        """Discard what was copied; guests still wait, so nothing they write is discarded."""
        skipped = {(part.offset, part.length) for part in parts if part.method is Method.SKIP}
        for offset, length in joined(run for run in piece.copied if run not in skipped):
            with suppress(OSError):
                await self.source.pdiscard(offset, length)

    def _end_piece(self, piece: _Piece, *, done: bool) -> None:
        """Remove the piece from the table; what was not copied is set again."""
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
        """Return how a range is copied (see ``plan``).

        Without a block status each cluster is read, which is a segment.
        """
        try:
            return await self._segments(offset, length)
        except OSError:
            end = offset + length
            return [
                Segment(start, min(self.cluster_size, end - start), Method.READ)
                for start in range(offset, end, self.cluster_size)
            ]

    async def _segments(self, offset: int, length: int) -> list[Segment]:
        own_layer_only = self._skip_unallocated
        bottom = self._layer if own_layer_only else None
        extents = await self.source.block_status(offset, length, bottom=bottom)
        return plan(extents, self.cluster_size, self.length, own_layer_only=own_layer_only)


def total(ranges: Iterable[Sequence[Any]]) -> int:
    """Return the bytes of ranges, which begin with offset and length."""
    return sum(map(_LENGTH, ranges))


def _notice(task: asyncio.Task[None]) -> None:
    """Retrieve a failure, as what waited may be cancelled; the bits are set again."""
    if not task.cancelled():
        task.exception()


async def finished(task: asyncio.Task[None]) -> None:
    """Return or raise as ``task`` does; a cancel of the caller leaves the task alone."""
    await asyncio.wait([task])
    task.result()


def target_cluster_size(target: BlockNode) -> int:
    """Return the unit of copying to ``target``, in bytes: its cluster size, at least 64 KiB.

    Without backing file a smaller unit would leave holes in the target's clusters, so there is
    a warning if the target does not report it.
    """
    node = skip_transparent(target)
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
