"""Making the target of a copy read as zeroes, with few requests and only where it does not yet.

Between two pieces of data of a sparse disk there is a hole: thousands of small requests, if each
were asked for and written by itself. So zeroes that only data of the same copy separates are one
span; where the target holds nothing yet, the span is zeroed as a whole and the data written over
it.

Invariants:

* A span has no byte that the copy does not write itself.
* Where someone notes what is written to the target (a write threshold, a bitmap), all of it is
  written, as QEMU does.

QEMU's counterpart: the zeroes of ``block_copy_do_copy``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from blkxact.storage.api import Payload, Runs

from .copy_plan import Method, Segment
from .types import Extent, Status, WriteFlags

if TYPE_CHECKING:
    from .node import BlockNode


class CopyTarget(Protocol):
    """Where bytes are written: an edge, or a node's own layer. All raise ``OSError``."""

    @property
    def node(self) -> BlockNode:
        """The node that is written to."""

    def block_status(self, offset: int, length: int) -> Awaitable[list[Extent]]:
        """Return the extents of a range, looked up through the chain."""

    def pwrite(self, offset: int, payload: Payload, flags: WriteFlags = ...) -> Awaitable[None]:
        """Write a payload."""

    def pwrite_runs(self, runs: Runs) -> Awaitable[None]:
        """Write several payloads."""

    def pwrite_zeroes(self, offset: int, length: int, flags: WriteFlags = ...) -> Awaitable[None]:
        """Make a range read as zeroes."""


_ZERO = int(Status.ZERO)
_ALLOCATED = int(Status.ALLOCATED)


def zero_spans(parts: Iterable[Segment]) -> list[list[Segment]]:
    """Return the zeroes among the parts, which are in order; a list for each span."""
    spans: list[list[Segment]] = []
    end = -1
    for part in parts:
        offset, length, method, _, _ = part
        if offset != end or not spans:
            spans.append([])
        if method is Method.ZERO:
            spans[-1].append(part)
        end = offset + length if method is not Method.SKIP else -1
    return [span for span in spans if span]


async def zero_target(
    target: CopyTarget, span: Sequence[Segment], *, blank: bool, flags: WriteFlags = WriteFlags.NONE
) -> None:
    """Make the zeroes of a span read so; the other bytes between them may be overwritten.

    ``blank``: what the target's own layer does not hold reads as zeroes forever. ``flags`` are
    those of the writes. Raises ``OSError``.
    """
    if _is_watched(target.node):
        for part in span:
            await target.pwrite_zeroes(part.offset, part.length, flags)
    else:
        await _zero_where_needed(target, span, blank, flags)


async def _zero_where_needed(
    target: CopyTarget, span: Sequence[Segment], blank: bool, flags: WriteFlags
) -> None:
    start, end = span[0].offset, span[-1].end
    try:
        extents = await target.block_status(start, end - start)
    except OSError:
        extents = [Extent(start, end - start, Status.DATA)]
    read_meanwhile = target.node.reads is not None  # fleecing
    if len(span) > 1 and not (blank or read_meanwhile or any(map(_own, extents))):
        await target.pwrite_zeroes(start, end - start, flags)
        return
    at = 0
    for extent in extents:
        if blank and not _own(extent):
            continue
        if _own(extent) and int.__and__(extent.status, _ZERO):
            continue
        stop = extent.offset + extent.length
        while at < len(span) and span[at].offset < stop:
            first = max(span[at].offset, extent.offset)
            last = min(span[at].end, stop)
            if first < last:
                await target.pwrite_zeroes(first, last - first, flags)
            if span[at].end > stop:
                break
            at += 1


def _is_watched(target: BlockNode) -> bool:
    """Return whether a write threshold or a bitmap of the target, or of what is below, is set."""
    todo = [target]
    while todo:
        node = todo.pop()
        threshold = node.write_threshold
        if node.bitmaps or node.job_bitmaps or (threshold and threshold.offset):
            return True
        todo += [child.node for child in node.children.values()]
    return False


def _own(extent: Extent) -> bool:
    """Return whether the target's own layer holds the extent."""
    return extent.depth == 0 and int.__and__(extent.status, _ALLOCATED) != 0
