"""Compressed writes: clusters are packed in threads, written side by side, then linked.

    pack (threads) → hold the range alone → take bytes (lock) → write (no lock) → link (lock)

Invariants:

* Whole clusters only; the one at the disk's end may be cut short, and is filled up with zeroes.
* A cluster that would not get smaller is written as it is.
* One that gets smaller replaces nothing: what has a place in the file already is an error.
* As for every write (``writer.py``): the map leads to bytes only when they are there.

QEMU's counterpart: ``qcow2_co_pwritev_compressed_part``.
"""

from __future__ import annotations

import asyncio
import errno
from typing import NamedTuple

from blkxact.block.types import SECTOR
from blkxact.enums import BlkdebugEvent
from blkxact.errors import os_error
from blkxact.storage.api import Buffer, FileRange, Payload, Runs

from . import compression
from .image import Image
from .l2_slice import L2Slice
from .layout import OFFSET_MASK
from .packing import allocate_bytes, free_bytes
from .writer import Writer

BATCH = 1 << 20
"""Bytes of the disk whose clusters are packed together, and held while they are written."""
THREAD_BYTES = 64 << 10
"""Fewest bytes that one call in a thread packs."""


class _Packed(NamedTuple):
    offset: int
    """Of the disk."""
    host: int
    data: bytes


class CompressedWriter:
    """Compressed writes of one image; ``writer`` writes what cannot be compressed."""

    def __init__(self, image: Image, writer: Writer) -> None:
        self.image = image
        self.map = image.map
        self.writer = writer

    async def write(self, offset: int, payload: Payload) -> None:
        """Write whole clusters; raises ``OSError``.

        ``EINVAL``: they are not whole; ``EIO``: one that gets smaller has a place in the file.

        A write of nothing, the last of a copy, makes the file as long as its last sector.
        """
        image = self.image
        if image.has_data_file:
            raise os_error(errno.ENOTSUP)
        if not len(payload):
            await self._fill_last_sector()
            return
        end = offset + len(payload)
        mask = image.cluster_size - 1
        if offset & mask or (end & mask and end != image.size):
            raise os_error(errno.EINVAL)
        step = max(BATCH, image.cluster_size)
        for start in range(offset, end, step):
            await self._write_batch(start, await _part(payload, offset, start, step))

    async def _fill_last_sector(self) -> None:
        child = self.image.file.child
        # A node reports its length in whole sectors even where its file ends within one, so the
        # length does not say whether there is anything to do.
        await child.truncate(-(-child.length // SECTOR) * SECTOR)

    async def _write_batch(self, offset: int, data: memoryview) -> None:
        image, size = self.image, self.image.cluster_size
        clusters: list[Buffer] = [data[at : at + size] for at in range(0, len(data), size)]
        packed = await self._pack(clusters)
        end = offset + len(data)
        held = await image.ranges.acquire(offset, image.round_up(end), exclusive=True)
        try:
            await self._write_packed(offset, packed)
            for start, stop in _plain_runs(packed, size):
                await self.writer.write_held(offset + start, data[start:stop])
        finally:
            image.ranges.release(held)

    async def _pack(self, clusters: list[Buffer]) -> list[bytes | None]:
        """Return the clusters packed, by several threads; None for one that gets no smaller."""
        size = self.image.cluster_size
        if len(clusters[-1]) < size:
            clusters[-1] = bytes(clusters[-1]).ljust(size, b"\0")
        loop = asyncio.get_running_loop()
        kind = self.image.header.compression_type
        each = max(1, THREAD_BYTES // size)
        calls = [
            loop.run_in_executor(None, compression.compress, kind, clusters[at : at + each])
            for at in range(0, len(clusters), each)
        ]
        return [item for part in await asyncio.gather(*calls) for item in part]

    async def _write_packed(self, offset: int, packed: list[bytes | None]) -> None:
        """Write what got smaller, in one go, and link it; the caller holds the range."""
        image = self.image
        placed: list[_Packed] = []
        try:
            async with image.lock:
                image.check_alive()
                for number, data in enumerate(packed):
                    if data is not None:
                        place = offset + number * image.cluster_size
                        await self._check_vacant(place)
                        host = await allocate_bytes(image.refcounts, len(data))
                        placed.append(_Packed(place, host, data))
            for host, payload in _joined(placed):
                await image.file.event(BlkdebugEvent.WRITE_COMPRESSED)
                await image.file.child.pwrite(host, payload)
            async with image.lock:
                image.check_alive()
                await self._link(placed)
                placed = []
                await image.relieve()
        except BaseException:
            async with image.lock:
                for item in placed:
                    await free_bytes(image.refcounts, item.host, len(item.data))
            raise

    async def _check_vacant(self, offset: int) -> None:
        """Raise ``OSError`` if a cluster of the disk has a place in the file."""
        if self.map.missing(offset, 1) is not None:
            await self.map.load(offset >> self.map.slice_shift)
        if (self.map.entry(offset) or 0) & OFFSET_MASK:
            raise os_error(errno.EIO)

    async def _link(self, placed: list[_Packed]) -> None:
        """Let the map lead to the packed clusters, as ``Writer.link`` does to whole ones."""
        shift, bits = self.map.slice_shift, self.map.cluster_bits
        pieces: dict[int, L2Slice] = {}
        for item in placed:
            key = item.offset >> shift
            if key not in pieces:
                pieces[key] = self.map.writable_now(key) or await self.map.writable(key)
            await self.image.file.event(BlkdebugEvent.L2_UPDATE_COMPRESSED)
        for item in placed:
            key = item.offset >> shift
            at = (item.offset - (key << shift)) >> bits
            entry = compression.descriptor(item.host, len(item.data), bits)
            self.map.link_compressed(key, pieces[key], at, entry)


async def _part(payload: Payload, offset: int, start: int, step: int) -> memoryview:
    """Return the bytes of a payload at ``offset`` that belong to a batch."""
    begin = start - offset
    length = min(step, len(payload) - begin)
    if isinstance(payload, FileRange):
        return memoryview(await payload.file.pread(payload.offset + begin, length))
    return memoryview(payload)[begin : begin + length]


def _plain_runs(packed: list[bytes | None], size: int) -> list[tuple[int, int]]:
    """Return where the clusters lie that got no smaller, in runs."""
    runs: list[tuple[int, int]] = []
    for number, data in enumerate(packed):
        if data is None:
            start = number * size
            if runs and runs[-1][1] == start:
                runs[-1] = runs[-1][0], start + size
            else:
                runs.append((start, start + size))
    return runs


def _joined(placed: list[_Packed]) -> Runs:
    """Make one write of clusters that follow one another in the file."""
    parts: list[tuple[int, list[bytes]]] = []
    end = -1
    for _, host, data in placed:
        if host != end:
            parts.append((host, []))
        parts[-1][1].append(data)
        end = host + len(data)
    return [(host, b"".join(data)) for host, data in parts]
