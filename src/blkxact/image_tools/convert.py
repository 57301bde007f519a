"""Copying a disk, or several concatenated, into another image.

Invariants:

* What the sources' maps call zeroes is never read, and zeroes found in data are not written, in
  runs of ``sparse`` bytes at least; 0 writes everything.
* Into a target over a backing file goes only what the source's own layer holds.
* What lies in files as it is, is copied as a backup copies it (``copy_parts``), when it has been
  looked at for zeroes (``copy_sift``), or while it is, into a plain file. All else is read and
  written as bytes: what is compressed or behind a server, what is to be compressed, and what could
  not be copied between files, so that the error names the very byte.
* Pieces are looked at or read by several tasks at a time. Their writes begin in order unless
  ``any_order``: so the target lies as its disk does. Compressed ones are whole clusters of the
  target; several threads pack them even so.

QEMU's counterpart: ``convert_do_copy`` in ``qemu-img.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

from blkxact.block.backend import BlockBackend
from blkxact.block.copy_parts import copy_parts
from blkxact.block.copy_plan import Method, Segment, merge_alike, plan
from blkxact.block.copy_sift import sift
from blkxact.block.node import BlockNode
from blkxact.block.types import SECTOR, WriteFlags
from blkxact.errors import QmpError, strerror
from blkxact.runtime.clock import Clock
from blkxact.runtime.throttle.rate_limit import RateLimit
from blkxact.storage.scan import zero_runs

from .joined import JoinedDisks

WINDOW = 64 << 20
"""Bytes of the disk whose map is asked for at a time, to begin with."""
MAX_WINDOW = 16 << 30
"""The same for a disk that has few extents."""
FEW_EXTENTS = 64
PIECE = 2 << 20
"""Most bytes of one read and write."""
FILE_PIECE = 16 << 20
"""Most bytes copied from file to file at a time, where no rate is set."""
FILE_WORKERS = 2
"""Tasks that copy such pieces: while one is copied, the next is looked at for zeroes.

With more of them what was looked at has left the processor's cache when it is copied: 5 to 10 %.
"""
DEFAULT_SPARSE = 4096
DEFAULT_WORKERS = 8
MAX_WORKERS = 16

Progress = Callable[[int, int], None]
Piece = list[Segment]
"""What one task copies: segments that lie in files or are zeroes, or one that is read as bytes."""


class ConvertOptions(NamedTuple):
    """How to copy. Sizes are bytes."""

    compress: bool = False
    sparse: int = DEFAULT_SPARSE
    target_is_blank: bool = False
    """What the target does not hold reads as zeroes forever."""
    over_backing: bool = False
    """The target's backing file has what the source's own layer does not hold."""
    copy_ranges: bool = False
    """Copy from file to file without a look for zeroes."""
    salvage: bool = False
    """Take what cannot be read for zeroes."""
    rate: int = 0
    """Bytes a second; 0 is without a limit."""
    workers: int = DEFAULT_WORKERS
    any_order: bool = False
    warn: Callable[[str], object] = lambda _text: None
    """Called for what could not be read."""


class Conversion:
    """One copy of ``sources`` into ``target``."""

    def __init__(
        self,
        sources: Sequence[BlockBackend],
        target: BlockBackend,
        clock: Clock,
        options: ConvertOptions,
    ) -> None:
        self._source = JoinedDisks(
            sources,
            own_layer_only=options.over_backing,
            salvage=options.salvage,
            warn=options.warn,
        )
        self._target = target
        self._clock = clock
        self._options = options
        self._limit = RateLimit(clock, options.rate)
        node = target.node
        assert node is not None
        self._cluster = (node.driver.cluster_size if options.compress else None) or SECTOR
        filled = node.driver.subcluster_size or SECTOR
        self._unit = max(options.sparse, filled) if options.sparse else 0
        """Shortest run of zeroes that is left out: less than the target allocates saves nothing."""
        self._plan_unit = self._cluster if options.compress or options.over_backing else filled
        leaves_out = options.target_is_blank and _is_plain_file(node)
        self._sparse = self._unit if leaves_out else 0
        """Unit in which zeroes are left out while files are copied. A format must know of them
        before it takes clusters, so they are looked for first there."""
        self._failed = False
        self._copy_ranges = options.copy_ranges
        self.length = self._source.length

    async def run(self, progress: Progress = lambda _done, _total: None) -> None:
        """Copy everything and make it durable; raises ``QmpError`` for the first failure."""
        running: set[asyncio.Task[None]] = set()
        in_order = not self._options.any_order
        workers = 1 if in_order and self._options.compress else self._options.workers
        before: asyncio.Event | None = None
        try:
            async for piece in self._pieces():
                await self._wait_for_rate(piece)
                begun = asyncio.Event()
                running.add(asyncio.create_task(self._copy(piece, before, begun)))
                before = begun if in_order else None
                most = workers if self._is_read(piece[0]) else min(workers, FILE_WORKERS)
                if len(running) >= most:
                    running = await _some_done(running)
                progress(piece[0].offset, self.length)
            while running:
                running = await _some_done(running)
        finally:
            if running:
                await asyncio.wait(running)
                for task in running:
                    task.exception()
        try:
            if self._options.compress:
                await self._target.pwrite(self.length, b"", WriteFlags.COMPRESSED)
            await self._target.flush()
        except OSError as error:
            raise QmpError(f"error while writing: {strerror(error)}") from error
        progress(self.length, self.length)

    async def _wait_for_rate(self, piece: Piece) -> None:
        size = sum(segment.length for segment in piece if segment.method is not Method.ZERO)
        if size and self._limit.speed:
            delay = self._limit.delay()
            if delay:
                await self._clock.sleep(delay)
            self._limit.account(size)

    # What is to be copied

    async def _pieces(self) -> AsyncIterator[Piece]:
        """Yield what the disk consists of, in order."""
        offset, window = 0, WINDOW
        while offset < self.length:
            extents = await self._source.extents(offset, min(window, self.length - offset))
            segments = plan(
                extents,
                self._plan_unit,
                self.length,
                own_layer_only=self._options.over_backing,
            )
            for piece in self._cut(merge_alike(segments)):
                yield piece
            offset += window
            window = min(2 * window, MAX_WINDOW) if len(extents) < FEW_EXTENTS else WINDOW

    def _cut(self, segments: Sequence[Segment]) -> Iterator[Piece]:
        """Yield pieces of the segments, but for those that are not copied."""
        size = PIECE if self._limit.speed else FILE_PIECE
        piece: Piece = []
        room = size
        for segment in segments:
            if segment.method is Method.SKIP or self._needs_nothing(segment):
                continue
            by_bytes = self._is_read(segment)
            for part in self._steps(segment, self._step if by_bytes else size):
                data = 0 if part.method is Method.ZERO else part.length
                if piece and (by_bytes or data > room):
                    yield piece
                    piece, room = [], size
                piece.append(part)
                room -= data
                if by_bytes:
                    yield piece
                    piece, room = [], size
        if piece:
            yield piece

    @property
    def _step(self) -> int:
        """Bytes that are read and written at a time, where bytes are."""
        return max(PIECE, self._cluster)

    def _is_read(self, segment: Segment) -> bool:
        """Return whether a segment goes through memory."""
        if segment.method is Method.ZERO:
            return not self._options.sparse
        if self._copy_ranges and segment.method is Method.COPY:
            return False
        return segment.method is Method.READ or self._options.compress or not self._unit

    def _needs_nothing(self, segment: Segment) -> bool:
        blank = self._options.target_is_blank and self._options.sparse > 0
        return segment.method is Method.ZERO and blank

    # Copying

    async def _copy(self, piece: Piece, before: asyncio.Event | None, begun: asyncio.Event) -> None:
        """Copy a piece, but begin to write it only when the write of what comes ``before`` has."""
        try:
            await self._copy_after(piece, before, begun)
        except BaseException:
            self._failed = True
            raise
        finally:
            begun.set()

    async def _copy_after(
        self, piece: Piece, before: asyncio.Event | None, begun: asyncio.Event
    ) -> None:
        by_bytes = self._is_read(piece[0])
        parts = None if by_bytes else await self._sifted(piece)
        data = await self._read(piece[0]) if by_bytes else None
        if before is not None:
            await before.wait()
        begun.set()  # who waits for it goes on when this task next waits, and that is for the write
        if self._failed:
            return
        if data is not None:
            await self._write(piece[0], data)
        elif parts is None or not await self._copied(parts):
            await self._copy_bytes(piece)

    async def _sifted(self, piece: Piece) -> Piece | None:
        """Return what of a piece is to be copied, or None if it cannot all be looked at."""
        if self._copy_ranges or self._sparse:
            return piece
        try:
            parts = await sift(piece, self._unit)
        except OSError:
            return None
        return [part for part in parts if not self._needs_nothing(part)]

    async def _copied(self, parts: Piece) -> bool:
        """Copy from file to file; return False if not all could be."""
        root = self._target.root  # what is not durable at once will be when the target is flushed
        assert root is not None
        try:
            await copy_parts(
                root,
                root,
                parts,
                copied=[],
                zero_flags=WriteFlags.MAY_UNMAP,
                sparse=self._sparse,
            )
        except OSError:
            self._copy_ranges = False
            return False
        return True

    async def _copy_bytes(self, piece: Piece) -> None:
        for segment in piece:
            for part in self._steps(segment, self._step):
                await self._write(part, await self._read(part))

    def _steps(self, segment: Segment, step: int) -> list[Segment]:
        """Cut data at multiples of ``step``; zeroes stay whole unless they are written as data."""
        offset, length, method, _, _ = segment
        if method is Method.ZERO and self._options.sparse:
            return [segment]
        if offset % step + length <= step:
            return [segment]
        return list(_cut_at_multiples(segment, step))

    async def _read(self, part: Segment) -> bytes:
        """Return the bytes of a part; for zeroes none, if they need not be written as such."""
        if part.method is not Method.ZERO:
            return await self._source.read(part.offset, part.length)
        return b"" if self._options.sparse else bytes(part.length)

    async def _write(self, part: Segment, data: bytes) -> None:
        """Write bytes but for their zeroes; none stand for zeroes."""
        offset = part.offset
        unit, flags = self._unit, WriteFlags.NONE
        if self._options.compress:
            unit, flags = self._cluster if unit else 0, WriteFlags.COMPRESSED
        try:
            if not data:
                await self._zero(offset, part.length)
            for start, stop, zero in data_runs(data, unit, -offset):
                if zero:
                    await self._zero(offset + start, stop - start)
                else:
                    await self._target.pwrite(offset + start, memoryview(data)[start:stop], flags)
        except OSError as error:
            raise QmpError(f"error while writing at byte {offset}: {strerror(error)}") from error

    async def _zero(self, offset: int, length: int) -> None:
        if not self._options.target_is_blank:
            await self._target.pwrite_zeroes(offset, length, WriteFlags.MAY_UNMAP)


def _is_plain_file(node: BlockNode) -> bool:
    """Return whether the disk is the bytes of a file, which nobody looks at on their way."""
    below = node.children.get("file")
    return (
        node.driver.format_name == "raw"
        and below is not None
        and below.node.driver.format_name == "file"
    )


def data_runs(data: bytes, sparse: int, first: int = 0) -> list[tuple[int, int, bool]]:
    """Return ``(start, stop, is zero)`` runs that cover ``data``.

    Only whole blocks of ``sparse`` bytes count as zeroes, and shorter ones at the ends; that at the
    start has ``first`` bytes modulo ``sparse``. With ``sparse`` 0 nothing counts.
    """
    if not data:
        return []
    if not sparse:
        return [(0, len(data), False)]
    return zero_runs(data, sparse, min(first % sparse, len(data)))


def _cut_at_multiples(segment: Segment, step: int) -> Iterator[Segment]:
    offset = segment.offset
    while offset < segment.end:
        stop = min(segment.end, (offset // step + 1) * step)
        yield segment.part(offset, stop)
        offset = stop


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until one task is done; raise a failure; return those that are not."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    failures = [error for task in done if (error := task.exception()) is not None]
    if failures:
        raise failures[0]
    return rest
