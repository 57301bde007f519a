"""What of a mirror's target reads as zeroes already, so that zeroes need not be written there.

Invariant: a granule is marked only while it certainly reads as zeroes. Before anything else is
written there, ``writing`` is called; after zeroes were written, ``zeroed``. The caller holds the
range.

QEMU's counterpart: ``zero_bitmap`` in ``block/mirror.c``; bdrv_co_is_all_zeroes() in
``block/io.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from blkxact.block.copy_plan import Method, Segment, round_down, round_up
from blkxact.block.node import BlockNode
from blkxact.block.types import Status
from blkxact.dirty.granules import Granules

STATUS_STEP: Final = 64 << 20
"""Bytes whose extents are asked for at a time."""
MAX_HEAD: Final = 128 << 10
"""Most bytes at the beginning of an image that are read to see whether they are zeroes
(MAX_ZERO_CHECK_BUFFER)."""


class TargetZeroes:
    """The granules of a target of ``size`` bytes; at first nothing is known.

    Without ``kept`` nothing is ever recorded.
    """

    def __init__(self, size: int, granularity: int, *, kept: bool) -> None:
        self.kept = kept
        self._size = size
        self._granularity = granularity
        self._unknown = Granules(size, granularity)
        self._unknown.mark(0, size)

    def all_zero(self) -> None:
        """Note that the whole target reads as zeroes."""
        self.zeroed(0, self._size)

    def zeroed(self, offset: int, length: int) -> None:
        """Note that a range reads as zeroes."""
        first = round_up(offset, self._granularity)
        end = offset + length
        last = end if end >= self._size else round_down(end, self._granularity)
        if self.kept and first < last:
            self._unknown.unmark(first, last - first)

    def writing(self, offset: int, length: int) -> None:
        """Note that a range may read as anything from now on."""
        self._unknown.mark(offset, length)

    def covers(self, offset: int, length: int) -> bool:
        """Return whether all of a range is known to read as zeroes."""
        return self._unknown.next_dirty(offset, offset + length) is None

    def to_write(self, parts: Sequence[Segment]) -> list[Segment]:
        """Return parts that are about to be copied, with those that need no writing as SKIP."""
        result = []
        for part in parts:
            if part.method is not Method.ZERO:
                self.writing(part.offset, part.length)
            elif self.covers(part.offset, part.length):
                part = part._replace(method=Method.SKIP)  # noqa: PLW2901 - it is the same part
            result.append(part)
        return result

    def written(self, parts: Sequence[Segment]) -> None:
        """Note that parts were copied."""
        for part in parts:
            if part.method is Method.ZERO:
                self.zeroed(part.offset, part.length)


async def reads_as_zeroes(node: BlockNode, may_go_on: Callable[[], Awaitable[bool]]) -> bool:
    """Return whether a whole disk is known to read as zeroes. Raises ``OSError``.

    ``may_go_on`` is asked between two steps.
    """
    for offset in range(0, node.length, STATUS_STEP):
        if not await may_go_on():
            return False
        length = min(STATUS_STEP, node.length - offset)
        for extent in await node.block_status(offset, length):
            if extent.status & Status.ZERO:
                continue
            # A file may have been given a first block, so that its alignment can be found out.
            if extent.offset or extent.length > MAX_HEAD:
                return False
            if any(memoryview(await node.pread(0, extent.length))):
                return False
    return True


def unmaps_zeroes(node: BlockNode) -> bool:
    """Return whether writing zeroes to the node is cheap (bdrv_can_write_zeroes_with_unmap)."""
    while node.driver.is_filter or node.driver.format_name == "raw":
        assert node.primary is not None
        if not node.discard:
            return False
        node = node.primary
    return node.discard and node.driver.unmaps_zeroes
