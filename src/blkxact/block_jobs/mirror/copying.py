"""What a mirror copies: the dirty parts of the source in the background, and the guest's writes.

Invariants:

* A set bit of ``bitmap`` is a granule that the target may not have. It is cleared before the copy
  of it begins, in one step with taking its range; a copy that fails sets it again. A write of the
  guest sets it when the write has ended, so what changed while it was copied is copied again.
* The extents of a range are asked for after its bits were cleared: a write that made them wrong
  sets a bit.
* Only one copy writes to a range of the target at a time: it holds the range.
* In copy mode ``write-blocking`` a write of the guest holds its range from before it reaches the
  source until the target has it, and sets no bit unless the target fails.
* A failure is passed to ``on_error``; it never reaches the guest.

QEMU's counterpart: mirror_iteration() and do_sync_target_write() in ``block/mirror.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blkxact.bitmap import DirtyBitmap
from blkxact.block.child import Child
from blkxact.block.copy_parts import copy_parts, writing
from blkxact.block.copy_plan import Method, Segment, parts_of_runs, plan, round_down, round_up
from blkxact.block.node import BlockNode
from blkxact.block.range_lock import HeldRange, RangeLock
from blkxact.block.types import SECTOR, Extent, Status, WriteFlags
from blkxact.runtime.clock import Clock
from blkxact.storage.api import Payload
from blkxact.storage.errors import CopyError

from .piece_size import PieceSize
from .zeroes import STATUS_STEP, TargetZeroes

MIB: Final = 1 << 20
GAP: Final = MIB
"""Clean bytes allowed between two dirty runs of a piece."""
MAX_PIECES: Final = 4
"""Pieces that are copied at the same time."""

ZERO_STEP: Final = 1 << 30
"""Bytes of the target that are zeroed at a time."""

Run = tuple[int, int]
"""Offset and length of a range."""
TargetWrite = Callable[[int, int], Awaitable[None]]
"""Writes a part of a guest's request to the target: offset and length."""


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """How a mirror copies; all sizes are in bytes.

    ``buf_size`` bounds a piece. ``unit``: the target must get so much at a
    time, as it cannot fill the rest of a cluster from a backing file that it does not have yet; 1:
    any part. ``base``: what only layers from it down hold need not be copied, as the target is
    ``base`` itself (active commit). ``unmap``: zeroes may be unmapped. ``skips_zeroes``: none are
    written where the target is known to read as zeroes.
    """

    granularity: int
    buf_size: int
    unit: int = 1
    base: BlockNode | None = None
    unmap: bool = True
    write_blocking: bool = False
    skips_zeroes: bool = False


class MirrorBitmap(DirtyBitmap):
    """A nameless bitmap of the source that reports writes when they are recorded."""

    def __init__(self, size: int, granularity: int, on_write: Callable[[], None]) -> None:
        super().__init__(size, granularity)
        self._on_write = on_write

    def record_write(self, offset: int, length: int) -> None:
        """Note that a range was written, if the bitmap is recording."""
        if self.enabled:
            super().record_write(offset, length)
            self._on_write()


class MirrorCopy:
    """Copies from ``source`` to ``target``, which are edges of the mirror's own.

    ``on_error`` gets every failure. ``on_done`` gets the bytes that were just copied; ``on_write``
    is called when the guest has written, or when a write has failed to reach the target.
    """

    def __init__(
        self,
        source: Child,
        target: Child,
        how: MirrorPlan,
        clock: Clock,
        *,
        on_error: Callable[[CopyError], None],
        on_done: Callable[[int], None],
        on_write: Callable[[], None],
    ) -> None:
        self.source = source
        self.target = target
        self.how = how
        self.length = source.length
        self.bitmap = MirrorBitmap(source.length, how.granularity, on_write)
        self.bitmap.enabled = not how.write_blocking
        self.write_blocking = how.write_blocking
        self.zeroes = TargetZeroes(self.length, how.granularity, kept=how.skips_zeroes)
        self.pieces: set[asyncio.Task[None]] = set()
        self._on_error = on_error
        self._on_done = on_done
        self._on_write = on_write
        self._ranges = RangeLock()
        self._clock = clock
        self._piece_size = PieceSize(self._unit)
        self._cursor = 0
        self._in_flight_bytes = 0
        self._recorded = 0
        """Writes of the guest in flight that only the bitmap records."""
        self._none_recorded = asyncio.Event()
        self._none_recorded.set()

    @property
    def remaining(self) -> int:
        """Return the bytes that are dirty or being copied."""
        return self.bitmap.count() + self._in_flight_bytes

    @property
    def dirty(self) -> bool:
        """Whether something is to be copied that is not being copied."""
        return self.bitmap.next_dirty(0) is not None

    # What is dirty at the start.

    async def zero_all(self, may_go_on: Callable[[], Awaitable[bool]]) -> None:
        """Make all of the target read as zeroes; what fails is dirty afterwards.

        ``may_go_on`` waits while the job is paused, and returns whether to continue.
        """
        flags = WriteFlags.MAY_UNMAP if self.how.unmap else WriteFlags.NONE
        for offset in range(0, self.length, ZERO_STEP):
            if not await may_go_on():
                return
            length = min(ZERO_STEP, self.length - offset)
            zeroes = [Segment(offset, length, Method.ZERO)]
            try:
                await copy_parts(self.source, self.target, zeroes, copied=[], zero_flags=flags)
            except CopyError as error:
                self.bitmap.mark(offset, length)
                self._on_error(error)
            else:
                self.zeroes.zeroed(offset, length)

    async def mark_allocated(
        self, base: BlockNode | None, may_go_on: Callable[[], Awaitable[bool]]
    ) -> None:
        """Set the bits of what the layers above ``base`` hold. Raises ``OSError``."""
        for offset in range(0, self.length, STATUS_STEP):
            if not await may_go_on():
                return
            length = min(STATUS_STEP, self.length - offset)
            for extent in await self.source.block_status(offset, length, base=base):
                if extent.status & Status.ALLOCATED:
                    self.bitmap.mark(extent.offset, extent.length)

    # In the background.

    async def start_piece(self, *, limited: bool) -> int:
        """Start to copy a piece of what is dirty; return its bytes that are not known to be zero.

        ``limited``: one run, as long as the buffer. Waits only for those who hold the beginning.
        """
        runs = await self._next_runs(limited=limited)
        if not runs:
            return 0
        start, end = runs[0][0], sum(runs[-1])
        held = self._ranges.try_acquire(start, end)
        assert held is not None, "only ranges that are free are taken"
        for offset, length in runs:
            self.bitmap.unmark(offset, length)
        size = sum(length for _, length in runs)
        self._in_flight_bytes += size
        parts: list[Segment] = []
        try:
            parts = await self._parts(runs)
        finally:
            piece = asyncio.create_task(self._copy_piece(held, runs, parts), name="mirror piece")
            self.pieces.add(piece)
            piece.add_done_callback(self.pieces.discard)
        return sum(part.length for part in parts if part.method is not Method.ZERO)

    async def finish_one(self) -> None:
        """Return when a piece is finished, or none is in flight."""
        if self.pieces:
            await asyncio.wait(self.pieces, return_when=asyncio.FIRST_COMPLETED)

    async def finish_all(self) -> None:
        """Return when no piece is in flight."""
        while self.pieces:
            await asyncio.wait(self.pieces)

    async def _next_runs(self, *, limited: bool) -> list[Run]:
        """Return the next dirty runs that nobody holds, wrapping around at the end of the disk."""
        while True:
            start = self.bitmap.next_dirty(self._cursor)
            if start is None:
                start = self.bitmap.next_dirty(0)
            if start is None:
                return []
            room = self.how.buf_size if limited else min(self.how.buf_size, self._piece_size.size)
            runs = list(self._free_runs(start, room, one=limited))
            if runs:
                self._cursor = sum(runs[-1])
                return runs
            self._ranges.release(await self._ranges.acquire_when_free(start, start + 1))

    def _free_runs(self, start: int, room: int, *, one: bool) -> Sequence[Run]:
        """Return dirty runs from ``start``, which is dirty: at most ``room`` bytes."""
        runs: list[Run] = []
        end = round_down(start, self._unit)
        for offset, length in self.bitmap.runs(end, min(end + room + GAP, self.length)):
            if runs and (one or offset > end + GAP):
                break
            first, last = self._whole(offset, offset + min(length, room))
            first = max(first, end)
            stop = self._ranges.free_until(end if runs else first, last)
            if stop < last:  # what is between the runs is held with them
                last = max(round_down(stop, self._unit), first)
            if first < last:
                runs.append((first, last - first))
                room -= last - first
                end = last
            if last < offset + length or room <= 0:
                break
        return runs

    @property
    def _unit(self) -> int:
        return max(self.how.granularity, self.how.unit)

    def _whole(self, start: int, end: int) -> Run:
        """Return the units that a range touches, cut at the end of the disk."""
        return round_down(start, self._unit), min(round_up(end, self._unit), self.length)

    async def _parts(self, runs: Sequence[Run]) -> list[Segment]:
        """Return how runs are copied."""
        start, end = runs[0][0], sum(runs[-1])
        base = self.how.base
        try:
            extents = await self.source.block_status(start, end - start, base=base)
        except OSError:
            extents = [Extent(start, end - start, Status.DATA | Status.ALLOCATED)]
        unit = SECTOR if base is not None else self.how.granularity
        segments = plan(extents, unit, self.length, own_layer_only=base is not None)
        return parts_of_runs(runs, segments)

    async def _copy_piece(
        self, held: HeldRange, runs: Sequence[Run], parts: Sequence[Segment]
    ) -> None:
        copied: list[Run] = []
        done = False
        started = self._clock.monotonic()
        try:
            await self._copy_parts(parts, copied)
            done = bool(parts)
            self._piece_size.learn(
                sum(length for _, length in runs), self._clock.monotonic() - started
            )
        except CopyError as error:
            self._on_error(error)
        finally:
            self._in_flight_bytes -= sum(length for _, length in runs)
            if not done:
                self._mark_all_but(runs, copied)
            self._ranges.release(held)
            self._on_done(sum(length for _, length in (runs if done else copied)))

    async def _copy_parts(self, parts: Sequence[Segment], copied: list[Run]) -> None:
        flags = WriteFlags.MAY_UNMAP if self.how.unmap else WriteFlags.NONE
        parts = self.zeroes.to_write(parts)
        await copy_parts(self.source, self.target, parts, copied=copied, zero_flags=flags)
        self.zeroes.written(parts)

    async def write(self, offset: int, payload: Payload, flags: WriteFlags) -> None:
        """Write a part of a guest's request to the target. Raises ``OSError``."""
        self.zeroes.writing(offset, len(payload))
        await self.target.pwrite(offset, payload, flags)

    async def write_zeroes(self, offset: int, length: int, flags: WriteFlags) -> None:
        """Make a part of a guest's request read as zeroes in the target. Raises ``OSError``."""
        if not self.zeroes.covers(offset, length):
            await self.target.pwrite_zeroes(offset, length, flags)
            self.zeroes.zeroed(offset, length)

    def _mark_all_but(self, runs: Sequence[Run], copied: Sequence[Run]) -> None:
        """Set the bits of runs again, except for what was copied."""
        copied = sorted(copied)
        for offset, length in runs:
            end = offset + length
            for start, size in copied:
                if offset < start + size and start < end:
                    self.bitmap.mark(offset, max(0, start - offset))
                    offset = start + size  # noqa: PLW2901 - what is before it is dealt with
            self.bitmap.mark(offset, max(0, end - offset))

    # The guest's writes.

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let a write of the guest reach the source, whose bitmaps record it when it ends."""
        self._recorded += 1
        self._none_recorded.clear()
        try:
            yield
        finally:
            self._recorded -= 1
            if not self._recorded:
                self._none_recorded.set()
                self.bitmap.enabled = not self.write_blocking

    def start_write_blocking(self) -> None:
        """Change the copy mode from background to write-blocking.

        Writes from now on wait until those before are over and recorded, so that none is missed.
        """
        self.write_blocking = True
        self.bitmap.enabled = self._recorded > 0

    async def write_both(
        self,
        offset: int,
        length: int,
        write_source: Callable[[], Awaitable[None]],
        write_target: TargetWrite | None,
    ) -> None:
        """Let the guest's write reach the source and then the target (write-blocking).

        ``write_target`` None: the range is copied as it is after the write. Raises ``OSError`` if
        the source fails.
        """
        await self._none_recorded.wait()
        first, last = self._whole(offset, offset + length)
        # It takes no place in the order: a later request of the guest may pass this one.
        held = await self._ranges.acquire_when_free(first, last)
        try:
            await write_source()
            await self._write_target(offset, offset + length, write_target)
        finally:
            self._ranges.release(held)

    async def _write_target(self, start: int, end: int, write: TargetWrite | None) -> None:
        """Copy what the guest has written, but for granules of which other parts are dirty."""
        unit = self.how.granularity
        if start % unit and self.bitmap.get(start):
            start = round_up(start, unit)
        if start < end and end % unit and self.bitmap.get(end - 1):
            end = round_down(end, unit)
        if start >= end:
            return
        whole = self._whole(start, end)
        if write is None or (self.how.unit > 1 and whole != (start, end)):
            start, end = whole
            write = None
        self.bitmap.unmark(start, end - start) if write is None else self._unmark_whole(start, end)
        self._in_flight_bytes += end - start
        try:
            if write is None:
                run = (start, end - start)
                await self._copy_parts(await self._parts([run]), [])
            else:
                with writing():
                    await write(start, end - start)
        except CopyError as error:
            self._in_flight_bytes -= end - start
            self.bitmap.mark(start, end - start)
            self._on_error(error)
            self._on_write()
        else:
            self._in_flight_bytes -= end - start
            self._on_done(end - start)

    def _unmark_whole(self, start: int, end: int) -> None:
        """Clear the bits of granules that are entirely in the range."""
        unit = self.how.granularity
        first = round_up(start, unit)
        last = end if end >= self.length else round_down(end, unit)
        if first < last:
            self.bitmap.unmark(first, last - first)
