"""Many runs of whole clusters in one write: one plan, one request below, one change of the map.

A backup of scattered clusters is made of such writes. Taking the locks, searching for free clusters
and linking once for each cluster costs more than copying its bytes.

Invariants:

* What is on the image afterwards is what single writes would have left, in the same order on stable
  storage: bytes first, then the tables (``writer.py``).
* All is linked, or all that was taken is given back.
* The range from the first run to the last is held alone, so that the plan stays true.

QEMU has no counterpart: it writes cluster by cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from blkxact.enums import BlkdebugEvent
from blkxact.storage.api import FileRange, Runs, StorageFile, payload_slice

from .image import Image
from .l2_slice import L2Slice
from .layout import COPIED
from .refcounts import Allocation
from .writer import Target, Writer, owned_runs, slice_parts

_POSITION = itemgetter(0)


class RunWriter:
    """Batched writes of one image; what they share with single ones is the ``writer``'s."""

    def __init__(self, image: Image, writer: Writer) -> None:
        self.image = image
        self.map = image.map
        self.writer = writer

    async def write(self, runs: Runs) -> None:
        """Write payloads of whole clusters, which do not overlap. Raises ``OSError``."""
        image = self.image
        start = runs[0][0]
        end = runs[-1][0] + len(runs[-1][1])
        held = await image.ranges.acquire(start, end, exclusive=True)
        try:
            async with image.lock:
                image.check_alive()
                targets = await self._plan(runs)
            try:
                await self._write_bytes(runs, targets)
                async with image.lock:
                    image.check_alive()
                    await self.writer.link(targets)
                    await image.relieve()
            except BaseException:
                async with image.lock:
                    await self.writer.give_back(targets)
                raise
        finally:
            image.ranges.release(held)

    async def _plan(self, runs: Runs) -> list[Target]:
        """Return where all is to be written, in order; new clusters are taken in one go."""
        parts: list[Target] = []
        for key, first, stop, offset in self._slice_parts(runs):
            piece = self.map.writable_now(key) or await self.map.writable(key)
            # Whole clusters cover themselves, but not all entries may be overwritten.
            await self.map.covered(offset, offset + (stop - first) * self.image.cluster_size)
            if not piece.entries[first] & COPIED and stop - first == 1:
                parts.append(_wanted(offset, self.image.cluster_size))
            else:
                await self._plan_part(parts, piece, first, stop, offset)
        if self.image.has_data_file:
            for part in parts:
                part.host = part.offset + self.image.data_shift
            return parts
        bits = self.image.cluster_bits
        needed = sum(part.length for part in parts if part.new) >> bits
        if not needed:
            return parts
        return _placed(parts, await self.image.refcounts.allocate(needed), bits)

    def _slice_parts(self, runs: Runs) -> Iterator[tuple[int, int, int, int]]:
        """Yield which entries of which slice make up the runs, as ``slice_parts`` does for one."""
        shift, bits = self.map.slice_shift, self.map.cluster_bits
        mask = (1 << shift) - 1
        for offset, payload in runs:
            length = len(payload)
            within = offset & mask
            if within + length <= mask + 1:
                yield offset >> shift, within >> bits, (within + length) >> bits, offset
            else:
                yield from slice_parts(self.map, offset, offset + length)

    async def _plan_part(
        self, parts: list[Target], piece: L2Slice, first: int, stop: int, offset: int
    ) -> None:
        """Add the clusters that are the disk's own, and those still to be taken (``new``)."""
        size = self.image.cluster_size
        base = offset - first * size
        gap = offset
        end = base + stop * size
        for begin, until in list(owned_runs(piece.entries, first, stop, size)):
            start = base + begin * size
            if gap < start:
                parts.append(_wanted(gap, start - gap))
            owned = self.writer.owned(piece.entries[begin], start, until - begin)
            parts.append(await self.writer.checked(owned))
            gap = owned.end
        if gap < end:
            parts.append(_wanted(gap, end - gap))

    async def _write_bytes(self, runs: Runs, targets: list[Target]) -> None:
        """Write the payloads to where their clusters lie in the file."""
        pieces: Runs = []
        remaining = iter(targets)
        for offset, payload in runs:
            end = offset + len(payload)
            position = offset
            while position < end:
                target = next(remaining)
                length = target.length
                part = payload
                if position > offset or offset + length < end:
                    start = position - offset
                    part = payload_slice(payload, start, start + length)
                pieces.append((target.host, part))
                position += length
        data = self.image.data
        if data.wants_events:
            for _ in pieces:
                await self.image.data_event(BlkdebugEvent.WRITE_AIO)
        pieces.sort(key=_POSITION)
        await data.pwrite_runs(_joined(pieces))


def _wanted(offset: int, length: int) -> Target:
    """Return clusters that have no place yet."""
    return Target(offset, length, 0, new=True, link=True)


def _placed(parts: list[Target], taken: list[Allocation], bits: int) -> list[Target]:
    """Give the ``new`` parts their clusters; one that gets several runs of them is cut."""
    placed: list[Target] = []
    runs = iter(taken)
    first = left = 0
    for part in parts:
        if not part.new:
            placed.append(part)
            continue
        offset, length = part.offset, part.length
        while length:
            if not left:
                run = next(runs)
                first, left = run.first << bits, run.clusters << bits
            size = min(length, left)
            placed.append(Target(offset, size, first, new=True, link=True))
            offset, length = offset + size, length - size
            first, left = first + size, left - size
    return placed


def _joined(pieces: Runs) -> Runs:
    """Make one of pieces that follow one another, in the image and in the file they come from."""
    joined: Runs = []
    source: StorageFile | None = None
    begin = follow = place = end = 0
    for at, piece in pieces:
        if not isinstance(piece, FileRange):
            return pieces
        if at == end and piece.offset == follow and piece.file is source:
            joined[-1] = begin, FileRange(source, place, end + piece.length - begin)
        else:
            source, begin, place = piece.file, at, piece.offset
            joined.append((at, piece))
        end, follow = at + piece.length, piece.offset + piece.length
    return joined
