"""The extents that BLOCK_STATUS answers with, one list for each metadata context.

Invariants:

* Maps are looked up in windows, and a reply has the status of ``MAX_STATUS`` bytes at most, so
  neither the size of the disk nor the length that a client names decides how long others wait or
  how much memory it takes.

QEMU's counterpart: ``nbd/server.c`` (blockstatus_to_extents, bitmap_to_extents).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from blkxact.block.types import Extent, Status
from blkxact.nbd.protocol import STATE_DIRTY, CommandFlag, Mode, State
from blkxact.nbd.replies import Replies
from blkxact.nbd.request_stream import Request
from blkxact.runtime.steps import yield_turn
from blkxact.storage.api import Buffer

from .exports import BASE_CONTEXT, DEPTH_CONTEXT, BlockExport

FIRST_WINDOW: Final = 1 << 20
LAST_WINDOW: Final = 256 << 20
"""Bytes of the map that are looked up at a time; the window doubles."""
MAX_EXTENTS: Final = 16 << 10
"""Extents of one context in a reply; the client asks again for the rest."""
MAX_EXTENT: Final = (1 << 32) - 1
"""Bytes of an extent without extended headers."""
MAX_STATUS: Final = 64 << 30
"""Bytes whose status one reply has; the client asks again for the rest."""

_REQ_ONE: Final = int(CommandFlag.REQ_ONE)

# Tables by the value of a Status, since the operators of a Flag are slow.
_STATUSES: Final = [Status(value) for value in range(2 * max(Status))]
_IS_ALLOCATED: Final = [bool(status & Status.ALLOCATED) for status in _STATUSES]
_STATE: Final = [
    (0 if status & Status.DATA else State.HOLE) | (State.ZERO if status & Status.ZERO else 0)
    for status in _STATUSES
]

Runs = Iterator[tuple[int, int]]
"""Pairs of bytes and status that follow each other."""


class Maps:
    """The maps of an export for one client."""

    def __init__(self, export: BlockExport, mode: Mode) -> None:
        self._export = export
        self._replies = Replies(mode)
        self._longest = MAX_STATUS if mode >= Mode.EXTENDED else MAX_EXTENT

    async def reply(self, request: Request, contexts: Sequence[int]) -> list[Buffer]:
        """Return the reply to a BLOCK_STATUS in some contexts; raises ``OSError``."""
        limit = 1 if request.flags & _REQ_ONE else MAX_EXTENTS
        length = min(request.length, MAX_STATUS)
        reply: list[Buffer] = []
        for number in contexts:
            extents = await self._extents(number, request.offset, length, limit)
            last = number == contexts[-1]
            reply.append(self._replies.block_status(request, number, extents, last=last))
        return reply

    async def _extents(self, context: int, offset: int, length: int, limit: int) -> bytes:
        """Return up to ``limit`` extents, packed, neighbours alike made one."""
        bitmap = self._export.bitmaps.get(context)
        if bitmap is not None:
            turns = bitmap.turns(offset, offset + length, limit + 1)
            packed = self._replies.pack_turns(turns, STATE_DIRTY)
            return packed[: limit * self._replies.extent_size]
        merged = _Merged(limit, self._longest)
        status = {BASE_CONTEXT: _allocation, DEPTH_CONTEXT: _depth}[context]
        async for extents in self._windows(offset, length):
            if not merged.add_all((extent.length, status(extent)) for extent in extents):
                break
        return self._replies.pack_extents(merged.runs)

    async def _windows(self, offset: int, length: int) -> AsyncIterator[list[Extent]]:
        """Yield the map of a range, window by window."""
        end, window = offset + length, FIRST_WINDOW
        while offset < end:
            size = min(window, end - offset)
            yield await self._export.backend.block_status(offset, size)
            offset += size
            window = min(2 * window, LAST_WINDOW)
            await yield_turn()


def _allocation(extent: Extent) -> int:
    return _STATE[extent.status]


def _depth(extent: Extent) -> int:
    """Return the layer that decides the extent, the topmost being 1; 0: none does."""
    return extent.depth + 1 if _IS_ALLOCATED[extent.status] else 0


class _Merged:
    """Runs that follow each other, up to a number of them; each has ``longest`` bytes at most."""

    def __init__(self, limit: int, longest: int) -> None:
        self._limit = limit
        self._longest = longest
        self.runs: list[tuple[int, int]] = []

    def add_all(self, runs: Runs) -> bool:
        """Add the runs; return whether more may come."""
        found = self.runs
        for length, status in runs:
            if found and found[-1][1] == status and found[-1][0] + length <= self._longest:
                found[-1] = found[-1][0] + length, status
            elif len(found) == self._limit:
                return False
            else:
                found.append((length, status))
        return True
