"""Copying what the upper layers of a chain hold into a node below them, from start to end.

Invariants:

* ``offset`` only grows. All before it has been dealt with; a piece that fails leaves it where it
  was, so that the piece can be tried again.
* Where requests may be seen to fail, or a speed is set, a piece is a run of at most ``CHUNK``
  bytes, as in QEMU. Bytes that lie in files are copied in larger pieces, which may have gaps.

QEMU's counterpart: the loops of ``commit_run`` and ``bdrv_commit`` in ``block/commit.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .copy_parts import COPY_STEP, copy_parts, reading
from .copy_plan import Method, Segment, plan
from .types import SECTOR

if TYPE_CHECKING:
    from .child import Child
    from .node import BlockNode

CHUNK: Final = 512 << 10
"""Most bytes of one read and write (COMMIT_BUFFER_SIZE)."""
WINDOW: Final = 64 << 20
"""Most bytes whose extents are asked for at a time."""


class ChainCopy:
    """Copies what the layers from ``source`` down to ``base`` (exclusive) hold to ``target``."""

    def __init__(self, source: Child, target: Child, base: BlockNode | None) -> None:
        self.source = source
        self.target = target
        self.base = base
        self.length = source.length
        self.offset = 0

    async def next_piece(self, *, limited: bool = False) -> list[Segment]:
        """Return what ``copy`` is to copy next; an unallocated range is ``Method.SKIP``.

        ``limited``: the pieces shall be short. Raises ``CopyError``.
        """
        with reading():
            extents = await self.source.block_status(self.offset, WINDOW, base=self.base)
        segments = plan(extents, SECTOR, self.length, own_layer_only=True)
        if segments[0].method is Method.SKIP:
            return segments[:1]
        by_bytes = limited or segments[0].method is Method.READ
        return _run(segments) if by_bytes else _batch(segments)

    async def copy(self, piece: Sequence[Segment]) -> int:
        """Copy a piece and go on behind it; return its length. Raises ``CopyError``."""
        await copy_parts(self.source, self.target, piece, copied=[])
        length = piece[-1].end - self.offset
        self.offset += length
        return length

    async def run(self) -> None:
        """Copy everything. Raises ``CopyError``."""
        while self.offset < self.length:
            await self.copy(await self.next_piece())


def _run(segments: Sequence[Segment]) -> list[Segment]:
    """Return the beginning of a run that is allocated, ``CHUNK`` bytes at most."""
    end = segments[0].offset + CHUNK
    piece: list[Segment] = []
    for segment in segments:
        if segment.method is Method.SKIP or segment.offset >= end:
            break
        piece.append(segment.part(segment.offset, min(segment.end, end)))
    return piece


def _batch(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments that need no bytes in memory, ``COPY_STEP`` bytes of data at most."""
    room = COPY_STEP
    piece: list[Segment] = []
    for segment in segments:
        if segment.method is Method.READ or not room:
            break
        taken = min(segment.length, room) if segment.method is Method.COPY else segment.length
        piece.append(segment.part(segment.offset, segment.offset + taken))
        if segment.method is Method.COPY:
            room -= taken
    return piece
