"""Where the bytes of a disk are: one map of a range, found by going down the chain of layers.

Invariants:

* A run that a layer does not decide is asked of the layer below, and only there.
* The part beyond the end of a shorter layer reads as zeroes, and that layer decided it.
* An extent keeps its ``file`` only if no layer on the way, and no listener, must see its reads.
* A layer that tracks its readers (``BlockNode.track_reads``) counts a query of extents as one.

QEMU's counterpart: ``bdrv_block_status_above``.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from contextlib import AsyncExitStack
from operator import itemgetter
from typing import TYPE_CHECKING

from .types import Extent, Status

if TYPE_CHECKING:
    from .node import BlockNode

_POSITION = itemgetter(0)

UNDECIDED = Status.NONE
UNALLOCATED_ZEROES = Status.ZERO
SHORT_LAYER = Status.ZERO | Status.ALLOCATED


async def chain_status(
    top: BlockNode,
    offset: int,
    length: int,
    *,
    base: BlockNode | None = None,
    bottom: BlockNode | None = None,
) -> list[Extent]:
    """Return extents that cover the range in order, looked up through the chain of ``top``.

    ``base`` and what is below it are not asked, nor is what is below ``bottom``: what they decide
    has ``Status.NONE``. A caller that asks again later names a ``bottom``, as other jobs may insert
    and remove filters between that layer and the next. An extent's ``depth`` is 0 for what ``top``
    decides. What no layer decides reads as zeroes and is not ``ALLOCATED``. The range is cut at the
    end of ``top``; neighbours with the same status are merged.
    """
    end = min(offset + length, top.length)
    if offset >= end:
        return []
    if top.below is None and top is not base:
        return _alone(await top.layer_status((offset, end - offset)), top)
    decided: list[Extent] = []
    todo = [(offset, end - offset)]
    layer: BlockNode | None = top
    last = top
    depth = 0
    reached = False
    seen = top.points.listening  # reads pass points of their own
    async with AsyncExitStack() as reading:
        while todo and layer is not None and layer is not base:
            if layer.reads is not None:
                await reading.enter_async_context(layer.reads.shared(offset, end))
            seen = seen or layer.driver.sees_reads or layer.reads is not None
            todo = await _ask_layer(layer, todo, decided, depth=depth, hide_file=seen)
            reached = reached or layer is bottom
            last, layer = layer, layer.below
            depth += 1
            if reached and last.filtered is None:  # what it filters is its own data
                break
    rest = UNDECIDED if layer is not None else _where_nothing_decides(last)
    decided.extend(Extent(start, size, rest, depth=depth) for start, size in todo)
    decided.sort(key=_POSITION)
    return merge_extents(decided)


def _where_nothing_decides(last: BlockNode) -> Status:
    """Return what is known of ranges that not even the last layer decides.

    An image without a backing file reads as zeroes there. Of a driver that cannot have one
    (``null-co``) nothing is known.
    """
    return UNALLOCATED_ZEROES if last.driver.supports_backing else UNDECIDED


def _alone(extents: list[Extent], layer: BlockNode) -> list[Extent]:
    """Return the extents of a node with nothing below it."""
    rest = _where_nothing_decides(layer)
    hide = layer.driver.sees_reads or layer.points.listening
    answer: list[Extent] = []
    previous = None
    neighbours = False
    for extent in extents:
        status = extent[2]
        if status is previous:
            neighbours = True
        previous = status
        if status is UNDECIDED:
            answer.append(Extent(extent.offset, extent.length, rest, depth=1))
        elif hide and extent.file is not None:
            answer.append(Extent(extent.offset, extent.length, status))
        else:
            answer.append(extent)
    return merge_extents(answer) if neighbours else answer


async def _ask_layer(
    layer: BlockNode,
    ranges: list[tuple[int, int]],
    decided: list[Extent],
    *,
    depth: int,
    hide_file: bool,
) -> list[tuple[int, int]]:
    """Add what the layer decides to ``decided``; return the ranges that it does not decide."""
    own = ranges
    length = layer.length
    if sum(ranges[-1]) > length:
        own = []
        for offset, size in ranges:
            inside = min(size, max(0, length - offset))
            if inside < size:
                decided.append(Extent(offset + inside, size - inside, SHORT_LAYER, depth=depth))
            if inside:
                own.append((offset, inside))
    found = await layer.layer_status(*own) if own else []
    found = [extent for extent in found if extent.status is not UNDECIDED]
    if hide_file:
        decided += [Extent(one.offset, one.length, one.status, depth=depth) for one in found]
    elif depth:
        decided += [Extent(*one[:5], depth) for one in found]
    else:
        decided += found
    return without(own, found)


def without(ranges: list[tuple[int, int]], extents: list[Extent]) -> list[tuple[int, int]]:
    """Return what is left of ranges when extents, each inside of one, are taken out of them.

    Both are in order. What it costs grows with the extents, not with the ranges.
    """
    left = list(ranges)
    at = len(left)
    for extent in reversed(extents):
        start, size = extent.offset, extent.length
        at = bisect_right(left, (start, sys.maxsize), 0, at) - 1
        offset, length = left[at]
        rest = offset + length - start - size
        left[at : at + 1] = [(start + size, rest)] if rest else []
        if start > offset:
            left.insert(at, (offset, start - offset))
            at += 1  # the next extent may lie there
    return left


def merge_extents(extents: list[Extent]) -> list[Extent]:
    """Return the extents, which are in order, with neighbours alike made one."""
    merged: list[Extent] = []
    for extent in extents:
        if merged and _continues(merged[-1], extent):
            last = merged[-1]
            merged[-1] = last._replace(length=last.length + extent.length)
        else:
            merged.append(extent)
    return merged


def _continues(first: Extent, second: Extent) -> bool:
    return (
        first.offset + first.length == second.offset
        and first.status == second.status
        and first.file is second.file
        and first.depth == second.depth
        and not first.status & Status.COMPRESSED  # each cluster is an extent, as in QEMU
        and (first.file is None or first.file_offset + first.length == second.file_offset)
    )
