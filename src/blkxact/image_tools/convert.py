"""Copying a disk, or several one behind the other, into another image.

Invariants:

* What the sources' maps call zeroes is never read, and zeroes found in data are not written, in
  runs of ``sparse`` bytes at least; 0 writes everything.
* Into a target over a backing file goes only what the source's own layer holds.
* Pieces are read by several tasks at a time, and written in order unless ``any_order``: then the
  target lies as its disk does. Compressed ones are whole clusters of the target; several threads
  pack them even so.

QEMU's counterpart: ``convert_do_copy`` in ``qemu-img.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import backing_chain_next
from blkxact.block.copy_plan import Method, Segment, plan
from blkxact.block.types import SECTOR, Extent, Status, WriteFlags
from blkxact.errors import QmpError, strerror
from blkxact.runtime.clock import Clock
from blkxact.runtime.throttle.rate_limit import RateLimit
from blkxact.storage.api import FileRange

WINDOW = 64 << 20
"""Bytes of the disk whose map is asked for at a time."""
PIECE = 2 << 20
"""Most bytes of one read and write."""
DEFAULT_SPARSE = 4096
DEFAULT_WORKERS = 8
MAX_WORKERS = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to copy. Sizes are bytes."""

    compress: bool = False
    sparse: int = DEFAULT_SPARSE
    target_is_blank: bool = False
    """What the target does not hold reads as zeroes for ever."""
    over_backing: bool = False
    """The target's backing file has what the source's own layer does not hold."""
    copy_ranges: bool = False
    """Let the host copy from file to file, without a look for zeroes."""
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
        self._sources = sources
        self._target = target
        self._clock = clock
        self._options = options
        self._limit = RateLimit(clock, options.rate)
        node = target.node
        assert node is not None
        self._cluster = (node.driver.cluster_size if options.compress else None) or SECTOR
        self._copy_ranges = options.copy_ranges
        self.length = sum(source.length for source in sources)

    async def run(self, progress: Progress = lambda _done, _total: None) -> None:
        """Copy everything and make it durable; raises ``QmpError`` for the first failure."""
        running: set[asyncio.Task[None]] = set()
        step = max(PIECE, self._cluster)
        in_order = not self._options.any_order
        workers = 1 if in_order and self._options.compress else self._options.workers
        last: asyncio.Task[None] | None = None
        try:
            async for whole in self._segments():
                for piece in _steps(whole, step):
                    await self._wait_for_rate(piece)
                    last = asyncio.create_task(self._copy(piece, last if in_order else None))
                    running.add(last)
                    if len(running) >= workers:
                        running = await _some_done(running)
                    progress(piece.offset, self.length)
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

    async def _wait_for_rate(self, piece: Segment) -> None:
        if piece.method is not Method.ZERO and self._limit.speed:
            delay = self._limit.delay()
            if delay:
                await self._clock.sleep(delay)
            self._limit.account(piece.length)

    # Reading

    async def _segments(self) -> AsyncIterator[Segment]:
        """Yield what the disk consists of, in order, in whole clusters of a compressed target."""
        over_backing = self._options.over_backing
        for offset in range(0, self.length, WINDOW):
            extents = await self._extents(offset, min(WINDOW, self.length - offset))
            for segment in plan(extents, self._cluster, self.length, own_layer_only=over_backing):
                yield segment

    async def _extents(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of the sources, put together as they lie one behind the other."""
        if len(self._sources) == 1:
            return await self._source_extents(self._sources[0], offset, length)
        extents: list[Extent] = []
        base = 0
        for source in self._sources:
            start, stop = max(offset, base), min(offset + length, base + source.length)
            if start < stop:
                found = await self._source_extents(source, start - base, stop - start)
                extents += [extent._replace(offset=base + extent.offset) for extent in found]
            base += source.length
        return extents

    async def _source_extents(self, source: BlockBackend, offset: int, size: int) -> list[Extent]:
        node = source.node
        assert node is not None
        below = backing_chain_next(node) if self._options.over_backing else None
        try:
            return await source.block_status(offset, size, base=below)
        except OSError as error:
            text = f"error while reading block status at offset {offset}: {strerror(error)}"
            if not self._options.salvage:
                raise QmpError(text) from error
            self._options.warn(text)
            return [Extent(offset, size, Status.DATA | Status.ALLOCATED)]

    async def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the sources, put together as they lie one behind the other."""
        parts = []
        base = 0
        for source in self._sources:
            start, stop = max(offset, base), min(offset + length, base + source.length)
            if start < stop:
                parts.append(await self._read_source(source, start - base, stop - start))
            base += source.length
        return b"".join(parts)

    async def _read_source(self, source: BlockBackend, offset: int, length: int) -> bytes:
        try:
            return bytes(await source.pread(offset, length))
        except OSError as error:
            if not self._options.salvage:
                raise QmpError(
                    f"error while reading at byte {offset}: {strerror(error)}"
                ) from error
        return b"".join(
            [
                await self._salvage(source, at, SECTOR)
                for at in range(offset, offset + length, SECTOR)
            ]
        )

    async def _salvage(self, source: BlockBackend, offset: int, length: int) -> bytes:
        try:
            return bytes(await source.pread(offset, length))
        except OSError as error:
            self._options.warn(f"error while reading offset {offset}: {strerror(error)}")
            return bytes(length)

    # Writing

    async def _copy(self, piece: Segment, before: asyncio.Task[None] | None) -> None:
        """Copy a piece, but write it only when what comes ``before`` was written."""
        try:
            data = None
            by_host = self._copy_ranges and piece.method is Method.COPY
            if piece.method is not Method.ZERO and not by_host:
                data = await self._read(piece.offset, piece.length)
            if before is not None:
                await asyncio.wait([before])
            if piece.method is Method.ZERO and self._options.sparse:
                await self._zero(piece.offset, piece.length)
            elif piece.method is Method.ZERO:
                await self._write_zero_bytes(piece)
            elif data is not None:
                await self._write(piece.offset, data)
            elif not await self._copied_by_host(piece):
                await self._write(piece.offset, await self._read(piece.offset, piece.length))
        except OSError as error:
            raise QmpError(
                f"error while writing at byte {piece.offset}: {strerror(error)}"
            ) from error

    async def _copied_by_host(self, piece: Segment) -> bool:
        """Copy from file to file if that is wanted and can be."""
        if not self._copy_ranges or piece.file is None:
            return False
        try:
            await self._target.pwrite(
                piece.offset, FileRange(piece.file, piece.file_offset, piece.length)
            )
        except OSError:
            self._copy_ranges = False
        return self._copy_ranges

    async def _write(self, offset: int, data: bytes) -> None:
        """Write bytes but for their zeroes."""
        sparse, flags = self._options.sparse, WriteFlags.NONE
        if self._options.compress:
            sparse, flags = self._cluster if sparse else 0, WriteFlags.COMPRESSED
        for start, stop, zero in data_runs(data, sparse):
            if zero:
                await self._zero(offset + start, stop - start)
            else:
                await self._target.pwrite(offset + start, memoryview(data)[start:stop], flags)

    async def _zero(self, offset: int, length: int) -> None:
        if not self._options.target_is_blank:
            await self._target.pwrite_zeroes(offset, length, WriteFlags.MAY_UNMAP)

    async def _write_zero_bytes(self, piece: Segment) -> None:
        flags = WriteFlags.COMPRESSED if self._options.compress else WriteFlags.NONE
        await self._target.pwrite(piece.offset, bytes(piece.length), flags)


def data_runs(data: bytes, sparse: int) -> list[tuple[int, int, bool]]:
    """Return ``(start, stop, is zero)`` runs that cover ``data``.

    Only whole blocks of ``sparse`` bytes count as zeroes; with 0 nothing does.
    """
    if not sparse:
        return [(0, len(data), False)]
    runs: list[tuple[int, int, bool]] = []
    blank = bytes(sparse)
    if blank not in data and len(data) % sparse == 0:
        return [(0, len(data), False)]
    for start in range(0, len(data), sparse):
        block = data[start : start + sparse]
        zero = block == (blank if len(block) == sparse else bytes(len(block)))
        if runs and runs[-1][2] == zero:
            runs[-1] = runs[-1][0], start + len(block), zero
        else:
            runs.append((start, start + len(block), zero))
    return runs


def _steps(segment: Segment, step: int) -> list[Segment]:
    """Cut data at multiples of ``step``; zeroes stay whole, and what is not copied is left out."""
    if segment.method is Method.SKIP:
        return []
    if segment.method is Method.ZERO:
        return [segment]
    parts = []
    offset = segment.offset
    while offset < segment.end:
        stop = min(segment.end, (offset // step + 1) * step)
        parts.append(segment.part(offset, stop))
        offset = stop
    return parts


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until one task is done; raise its failure; return those that are not."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return rest
