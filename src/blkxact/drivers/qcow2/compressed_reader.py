"""Reads of compressed clusters: what lies side by side is read at once, and unpacked in threads.

QEMU's counterpart: ``qcow2_co_preadv_compressed``, which reads cluster by cluster.
"""

from __future__ import annotations

import asyncio

from blkxact.enums import BlkdebugEvent
from blkxact.storage.api import Buffer

from . import compression
from .image import Image
from .runs import Run

BATCH = 1 << 20
"""Bytes of the disk that are read and unpacked at a time."""
THREAD_BYTES = 128 << 10
"""Fewest bytes that one call in a thread unpacks; fewer are unpacked on the loop."""
INLINE_BYTES = 32 << 10
"""Bytes that are unpacked on the loop: a hop to a thread would cost more."""


class CompressedReader:
    """Reads compressed clusters of one image."""

    def __init__(self, image: Image) -> None:
        self.image = image

    async def read(self, runs: list[Run]) -> list[Buffer]:
        """Return the bytes of compressed runs, one by one; raises ``OSError``."""
        at_once = max(1, BATCH // self.image.cluster_size)
        parts: list[Buffer] = []
        for first in range(0, len(runs), at_once):
            parts += await self._read_batch(runs[first : first + at_once])
        return parts

    async def _read_batch(self, runs: list[Run]) -> list[Buffer]:
        size = self.image.cluster_size
        packed = await self._read_packed(runs)
        clusters = await self._unpack(packed)
        parts: list[Buffer] = []
        for run, cluster in zip(runs, clusters, strict=True):
            start = run.offset & (size - 1)
            whole = run.length == size
            parts.append(cluster if whole else cluster[start : start + run.length])
        return parts

    async def _read_packed(self, runs: list[Run]) -> list[Buffer]:
        """Return the bytes in which each cluster lies, to the end of their last sector."""
        bits = self.image.cluster_bits
        places = [compression.locate(run.host, bits) for run in runs]
        spans: list[tuple[int, int]] = []
        for offset, length in places:
            # The last sector of one is mostly the first of the next.
            if spans and spans[-1][0] <= offset <= spans[-1][1]:
                spans[-1] = spans[-1][0], max(spans[-1][1], offset + length)
            else:
                spans.append((offset, offset + length))
        read: list[tuple[int, memoryview]] = []
        for start, end in spans:
            await self.image.file.event(BlkdebugEvent.READ_COMPRESSED)
            data = await self.image.file.child.pread(start, end - start)
            read.append((start, memoryview(data)))
        packed: list[Buffer] = []
        number = 0
        for offset, length in places:
            while not spans[number][0] <= offset <= offset + length <= spans[number][1]:
                number += 1
            begin = offset - spans[number][0]
            packed.append(read[number][1][begin : begin + length])
        return packed

    async def _unpack(self, packed: list[Buffer]) -> list[bytes]:
        kind, size = self.image.header.compression_type, self.image.cluster_size
        if len(packed) * size <= INLINE_BYTES:
            return compression.decompress_all(kind, packed, size)
        loop = asyncio.get_running_loop()
        each = max(1, THREAD_BYTES // size)
        calls = [
            loop.run_in_executor(
                None, compression.decompress_all, kind, packed[at : at + each], size
            )
            for at in range(0, len(packed), each)
        ]
        return [cluster for part in await asyncio.gather(*calls) for cluster in part]
