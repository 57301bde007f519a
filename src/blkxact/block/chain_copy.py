"""Copying what the upper layers of a chain hold into a node below them, from start to end.

Invariants:

* ``offset`` only grows. All before it has been dealt with; a piece that fails leaves it where it
  was, so that the piece can be tried again.
* Where requests may be seen to fail, or a speed is set, a piece is a run of at most ``CHUNK``
  bytes, as in QEMU. Bytes that lie in files are copied in larger pieces, which may have gaps.

QEMU's counterpart: the loops of ``commit_run`` and ``bdrv_commit`` in ``block/commit.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from .copy_parts import COPY_STEP, copy_parts, reading
from .copy_plan import Method, Segment, merge_alike, plan
from .types import SECTOR, WriteFlags

if TYPE_CHECKING:
    from .child import Child
    from .node import BlockNode

CHUNK: Final = 512 << 10
"""Most bytes of one read and write (COMMIT_BUFFER_SIZE, STREAM_CHUNK)."""
WINDOW: Final = 64 << 20
"""Most bytes whose extents are asked for at a time."""


class Pieces:
    """The pieces of a disk of ``length`` bytes that are still to be dealt with, in order.

    ``ask`` returns the segments of ``WINDOW`` bytes from an offset on; what is not to be copied is
    ``Method.SKIP``. They remain valid until they have been dealt with.
    """

    def __init__(self, length: int, ask: Callable[[int], Awaitable[list[Segment]]]) -> None:
        self.length = length
        self.offset = 0
        self._ask = ask
        self._segments: list[Segment] = []
        self._at = 0

    @property
    def remaining(self) -> int:
        """Return the bytes that are still to be dealt with."""
        return self.length - self.offset

    async def next_piece(self, *, limited: bool = False) -> list[Segment]:
        """Return what comes next. Raises what ``ask`` does.

        ``limited``: the pieces shall be short.
        """
        if self._at == len(self._segments):
            self._segments, self._at = await self._ask(self.offset), 0
        first = self._segments[self._at]
        if first.method is Method.SKIP:
            return [first]
        ahead = islice(self._segments, self._at, None)
        return _run(ahead) if limited or first.method is Method.READ else _batch(ahead)

    def done(self, length: int) -> None:
        """Advance the current offset by ``length`` bytes."""
        self.offset += length
        while self._at < len(self._segments) and self._segments[self._at].end <= self.offset:
            self._at += 1
        if self._at < len(self._segments):
            segment = self._segments[self._at]
            self._segments[self._at] = segment.part(self.offset, segment.end)


class ChainCopy:
    """Copies what the layers from ``source`` down to ``base`` (exclusive) hold to ``target``.

    ``unmap``: zeroes may be unmapped in the target.
    """

    def __init__(
        self, source: Child, target: Child, base: BlockNode | None, *, unmap: bool = False
    ) -> None:
        self.source = source
        self.target = target
        self.base = base
        self._zero_flags = WriteFlags.MAY_UNMAP if unmap else WriteFlags.NONE
        self.pieces = Pieces(source.length, self._ask)

    async def _ask(self, offset: int) -> list[Segment]:
        with reading():
            extents = await self.source.block_status(offset, WINDOW, base=self.base)
        return merge_alike(plan(extents, SECTOR, self.pieces.length, own_layer_only=True))

    async def copy(self, piece: Sequence[Segment]) -> int:
        """Copy a piece and advance past it; return its length. Raises ``CopyError``."""
        await copy_parts(self.source, self.target, piece, copied=[], zero_flags=self._zero_flags)
        length = size_of(piece)
        self.pieces.done(length)
        return length

    async def run(self) -> None:
        """Copy everything. Raises ``CopyError``."""
        while self.pieces.remaining:
            await self.copy(await self.pieces.next_piece())


def size_of(piece: Sequence[Segment]) -> int:
    """Return the bytes of a piece, which has no gaps."""
    return piece[-1].end - piece[0].offset


def _run(segments: Iterable[Segment]) -> list[Segment]:
    """Return the beginning of a run that is to be copied, ``CHUNK`` bytes at most."""
    room = CHUNK
    piece: list[Segment] = []
    for segment in segments:
        if segment.method is Method.SKIP or not room:
            break
        taken = min(segment.length, room)
        piece.append(segment.part(segment.offset, segment.offset + taken))
        room -= taken
    return piece


def _batch(segments: Iterable[Segment]) -> list[Segment]:
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
