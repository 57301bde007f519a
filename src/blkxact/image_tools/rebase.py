"""Putting an image on another backing file, with what it holds unchanged.

Invariants:

* Before the header names the new backing file, all in which old and new one differ has been copied
  into the image and made durable. So whenever it is interrupted the image reads the same.
* Only what the image's own layer lacks is compared, and of that only what the maps do not already
  call zeroes on both sides, or unchanged since the new backing file (if it is below already).

QEMU's counterpart: ``img_rebase`` in ``qemu-img.c``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import backing_chain_next, skip_filters
from blkxact.block.copy_parts import copy_parts
from blkxact.block.copy_plan import Method, Segment
from blkxact.block.filename import combine, is_absolute
from blkxact.block.node import BlockNode
from blkxact.block.types import Extent, Status
from blkxact.drivers import DRIVERS
from blkxact.errors import QmpError, strerror
from blkxact.storage.scan import Run, different_runs

from .ahead import in_order
from .open_images import ImageName, Images, node_of
from .side_by_side import BATCH, Pair, differences_in_files, side_by_side

WINDOW = 64 << 20
PIECE = 1 << 20
"""Most bytes compared at a time."""
BLOCK = 4096
"""Unit in which differences are copied."""

Progress = Callable[[int, int], None]


async def rebase(
    images: Images,
    image: ImageName,
    backing: str | None,
    fmt: str | None = None,
    *,
    unsafe: bool = False,
    force_share: bool = False,
    source_cache: str = "writeback",
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Put ``image`` on ``backing``, named as seen from the image; None or "": on none.

    ``unsafe`` only writes the name and looks at no backing file. Raises ``QmpError``.
    """
    if fmt is not None and fmt not in DRIVERS:
        raise QmpError(f"Invalid format name: '{fmt}'")
    top = await images.open(image, writable=True, backing=not unsafe)
    node = skip_filters(node_of(top))
    if not unsafe:
        new = await _new_backing(images, node, backing, fmt, source_cache, force_share=force_share)
        copy = _Copy(top, node, new)
        await copy.run(progress)
    await _set_backing_file(node, backing or None, fmt)
    try:
        await images.finish(top)
    except OSError as error:
        raise QmpError(f"Could not flush '{image.text}': {strerror(error)}") from error


async def _new_backing(
    images: Images,
    node: BlockNode,
    backing: str | None,
    fmt: str | None,
    cache: str,
    *,
    force_share: bool,
) -> BlockNode | None:
    """Return the new backing file's node: one of the chain, or newly opened."""
    if not backing:
        return None
    path = backing if is_absolute(backing) else combine(node.filename, backing)
    for below in _chain_below(node):
        if _same_file(below.filename, path):
            return below
    try:
        name = ImageName(path, fmt, cache=cache)
        return node_of(await images.open(name, force_share=force_share))
    except QmpError as error:
        why = error.desc.removeprefix(f"Could not open '{path}': ")
        raise QmpError(f"Could not open new backing file '{backing}': {why}") from error


def _chain_below(node: BlockNode) -> list[BlockNode]:
    chain = []
    below = backing_chain_next(node)
    while below is not None:
        chain.append(below)
        below = backing_chain_next(below)
    return chain


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - strings all the way
    except OSError:
        return one == other


async def _set_backing_file(node: BlockNode, backing: str | None, fmt: str | None) -> None:
    refusal = f"Could not change the backing file to '{backing or ''}': "
    if backing and fmt is None:
        raise QmpError(f"{refusal}backing format must be specified")
    try:
        await node.driver.set_backing_file(backing, fmt if backing else None)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise QmpError(f"{refusal}No space left in the file header") from error
        raise QmpError(refusal + strerror(error)) from error
    except QmpError as error:
        raise QmpError(refusal + error.desc) from error


class _Copy:
    """Copies into the image what the two backing files do not have in common."""

    def __init__(self, top: BlockBackend, node: BlockNode, new: BlockNode | None) -> None:
        self._top = top
        self._node = node
        self._old = backing_chain_next(node)
        self._new = new
        self._shared = new if new in _chain_below(node) else None
        """The new backing file, if it is below the image already."""
        self._unit = max(BLOCK, node.driver.subcluster_size or 0)

    async def run(self, progress: Progress) -> None:
        """Copy, and make it durable; raises ``QmpError``."""
        length = self._node.length
        batches = in_order(self._all_candidates(), self._differences, ahead=1)
        async with aclosing(batches):
            async for batch, found in batches:
                await self._copy(batch, found)
                progress(batch[-1].end, length)
        progress(length, length)
        try:
            await self._top.flush()
        except OSError as error:
            raise QmpError(f"Error while writing to COW image: {strerror(error)}") from error

    async def _all_candidates(self) -> AsyncIterator[list[Pair]]:
        length = self._node.length
        try:
            for start in range(0, length, WINDOW):
                async for batch in self._candidates(start, min(WINDOW, length - start)):
                    yield batch
        except OSError as error:
            raise QmpError(f"error while reading image metadata: {strerror(error)}") from error

    async def _candidates(self, start: int, size: int) -> AsyncIterator[list[Pair]]:
        """Yield what may differ: neither in the own layer, nor alike by what the maps say."""
        batch: list[Pair] = []
        room = BATCH
        for extent in await self._node.block_status(start, size, base=self._old):
            if extent.status & Status.ALLOCATED:
                continue
            for whole in await self._changed_below(extent.offset, extent.length):
                for pair in whole.steps(BATCH):
                    if batch and pair.length > room:
                        yield batch
                        batch, room = [], BATCH
                    batch.append(pair)
                    room -= pair.length
        if batch:
            yield batch

    async def _changed_below(self, offset: int, length: int) -> list[Pair]:
        """Return what old and new backing file have in a range, where they may differ."""
        ranges = [(offset, length)]
        if self._shared is not None and self._old is not None and self._old is not self._shared:
            extents = await _status(self._old, offset, length, self._shared)
            ranges = [(e.offset, e.length) for e in extents if e.status & Status.ALLOCATED]
        elif self._shared is not None:
            return []
        pairs: list[Pair] = []
        for start, size in ranges:
            old = await _status(self._old, start, size)
            new = await _status(self._new, start, size)
            pairs += [pair for pair in side_by_side(old, new) if not pair.is_equal]
        return pairs

    async def _differences(self, batch: list[Pair]) -> list[list[Run]] | None:
        try:
            return await differences_in_files(batch, self._unit)
        except OSError:
            return None  # the same again as bytes says which file it is

    async def _copy(self, batch: list[Pair], found: list[list[Run]] | None) -> None:
        """Write into the image in what old and new backing file differ."""
        if found is None:
            for pair in batch:
                await self._copy_bytes(pair)
            return
        parts = [
            _segment(pair, *run) for pair, runs in zip(batch, found, strict=True) for run in runs
        ]
        if parts and not await self._copied(parts):
            for part in parts:
                zeroes = part.method is Method.ZERO
                old = None if zeroes else self._old
                data = await self._read(old, part.offset, part.length, "old")
                await self._write(part.offset, data)

    async def _copied(self, parts: list[Segment]) -> bool:
        """Copy from file to file; return False if not all could be."""
        root = self._top.root
        assert root is not None
        try:
            await copy_parts(root, root, parts, copied=[])
        except OSError:
            return False
        return True

    async def _copy_bytes(self, pair: Pair) -> None:
        for start in range(pair.offset, pair.end, PIECE):
            size = min(PIECE, pair.end - start)
            old = await self._read(self._old, start, size, "old")
            new = await self._read(self._new, start, size, "new")
            for first, end in differences(old, new):
                await self._write(start + first, old[first:end])

    async def _read(self, node: BlockNode | None, offset: int, size: int, which: str) -> bytes:
        inside = 0 if node is None else max(0, min(size, node.length - offset))
        if node is None or not inside:
            return bytes(size)
        try:
            return bytes(await node.pread(offset, inside)) + bytes(size - inside)
        except OSError as error:
            raise QmpError(
                f"error while reading from {which} backing file: {strerror(error)}"
            ) from error

    async def _write(self, offset: int, data: bytes) -> None:
        try:
            if data.count(0) == len(data):
                await self._top.pwrite_zeroes(offset, len(data))
            else:
                await self._top.pwrite(offset, data)
        except OSError as error:
            raise QmpError(f"Error while writing to COW image: {strerror(error)}") from error


async def _status(
    node: BlockNode | None, offset: int, length: int, base: BlockNode | None = None
) -> list[Extent]:
    """Return the extents of a whole range; beyond the end of the disk, or without one, zeroes."""
    end = offset + length
    extents = []
    inside = 0 if node is None else max(0, min(end, node.length) - offset)
    if node is not None and inside:
        extents = await node.block_status(offset, inside, base=base)
    if inside < length:
        # The end of a layer hides what is below it, as zeroes written there would.
        hidden = Status.ZERO | Status.ALLOCATED
        extents.append(Extent(offset + inside, length - inside, hidden))
    return extents


def _segment(pair: Pair, start: int, stop: int, zero: bool) -> Segment:
    """Return how a part of what the old backing file has is copied.

    ``start`` and ``stop`` are counted from the pair's.
    """
    offset, length = pair.offset + start, stop - start
    if zero:
        return Segment(offset, length, Method.ZERO)
    return Segment(offset, length, Method.COPY, pair.mine.file, pair.mine_at() + start)


def differences(one: bytes, other: bytes) -> list[tuple[int, int]]:
    """Return the ``(start, end)`` runs of blocks in which two buffers of one length differ."""
    runs: list[tuple[int, int]] = []
    for start, stop, _ in different_runs(one, other, BLOCK):
        joins = bool(runs) and runs[-1][1] == start
        runs[-1:] = [(runs[-1][0], stop)] if joins else [*runs[-1:], (start, stop)]
    return runs
